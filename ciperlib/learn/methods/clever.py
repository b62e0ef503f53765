"""CLeVER: DINO on one part of the representation, and orthogonality of views on the other."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config, ConfigError
from ciperlib.learn.methods import losses
from ciperlib.learn.methods.base import Batch, Losses, Objective, half_size, represent
from ciperlib.learn.parallel import gather, world_size
from ciperlib.learn.seeds import seeded
from ciperlib.registry import Option, methods

GLOBAL, LOCAL = (0.4, 1.0), (0.05, 0.4)  # area of the crops, as in DINO
LOCAL_VIEWS = 4  # at half the side: as much computing as one whole view
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
CENTRE_MOMENTUM, TEACHER_MOMENTUM = 0.9, 0.996  # the latter at the start; 1 at the end, by a cosine
BOTTLENECK = 64  # of a head, before its prototypes


class DINOHead(nn.Module):
    """DINO's head (arXiv 2104.14294): three layers, a normalised bottleneck, cosines with `width` prototypes."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        hidden = [nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, BOTTLENECK)]
        self.layers = nn.Sequential(*hidden)
        self.prototypes = nn.Parameter(torch.randn(width, BOTTLENECK))

    def forward(self, h: Tensor) -> Tensor:
        """h [B, inputs] -> logits [B, width] in -1..1."""
        x = F.normalize(self.layers(h).float(), dim=1)
        with torch.autocast(h.device.type, enabled=False):  # divided by 0.04, bfloat16's error would be a tenth
            return F.linear(x, F.normalize(self.prototypes, dim=1))


def check_crops(config: Config) -> None:
    """Raises ConfigError where the views are no crops."""
    if "crop" not in config.augmentations:
        raise ConfigError(
            f"augmentations={config.augmentations} does not go with method='clever', whose views are crops of "
            "several sizes: add crop"
        )


@methods.register(
    "clever", label="CLeVER", colour="#AA4499", alpha=1.0, invariant_share=0.8, check=check_crops, halves=True,
    reads=("projector_width", "invariant_share", "orthogonality"), place=90,
    options={"preg": Option(0.001, "weight of PReg, which keeps CLeVER's heads at one size", low=0, high=1e6)},
)  # fmt: skip
class CLeVER(Objective):
    """CLeVER (arXiv 2406.00262): h = [invariant | equivariant], the first int(0.8 d) dimensions and the rest.

    The invariant part is trained by DINO: a student sees two whole views and four small ones, a teacher, the student's
    moving average, the whole ones; each student's view shall have the teacher's answer for every *other* view. On the
    equivariant part the answers of different views shall be orthogonal. PReg keeps the two student heads' weights at
    one size.

        total = DINO + alpha * orthogonality + preg * | |weights of one head|^2 - |weights of the other|^2 |

    What remains after training, `encoder`, is the teacher's, as in DINO. The paper's 65,536 prototypes are
    `projector_width` here, for both heads (the public code's second one has 16,384 by default, which its centre does
    not fit); its optimiser's tricks (clipping, a rising weight decay, a last layer that is frozen in the first epoch)
    are left out.
    """

    crops = (GLOBAL, GLOBAL, *LOCAL_VIEWS * (LOCAL,))
    passes_per_image = 4 + LOCAL_VIEWS / 4  # the student's two whole views and its small ones; the teacher's two

    def build_heads(self, inputs, config, specs):
        self.split = config.split
        parts = {"invariant": self.split, "equivariant": inputs - self.split}
        self.heads, self.teacher_heads = nn.ModuleDict(), nn.ModuleDict()
        for part, size in parts.items():
            with seeded(config.seed, f"{part}_head"):
                self.heads[part] = DINOHead(size, config.projector_width)
            self.teacher_heads[part] = copy.deepcopy(self.heads[part]).requires_grad_(False)
            self.register_buffer(f"{part}_centre", torch.zeros(config.projector_width))
        self.student = copy.deepcopy(self.encoder)
        self.encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        if len(batch.views) < 2:
            raise ValueError("clever compares views with each other: it needs at least two")
        whole, small = batch.views[:2], batch.views[2:]
        with torch.no_grad():
            teacher = self._answers(self.teacher_heads, represent(self.encoder, *[view.images for view in whole]))
        student = represent(self.student, *[view.images for view in whole])
        if small:
            student += represent(self.student, *[half_size(view.images) for view in small])
        student = self._answers(self.heads, student)
        known = {part: [self._sharpened(part, logits) for logits in teacher[part]] for part in teacher}
        pairs = [(q, v) for q in range(2) for v in range(len(batch.views)) if v != q]
        invariant, equivariant = student["invariant"], [z / STUDENT_TEMPERATURE for z in student["equivariant"]]
        terms = {
            "distillation": _mean(losses.distillation(known["invariant"][q], invariant[v]) for q, v in pairs),
            "orthogonality": _mean(
                losses.orthogonality(
                    known["equivariant"][q], equivariant[v].softmax(1), self.config.orthogonality == "sample"
                )
                for q, v in pairs
            ),
            "regularisation": (_size(self.heads["invariant"]) - _size(self.heads["equivariant"])).abs(),
        }
        if self.training:
            self._move_centres(teacher)
        # the processes' gradients are summed, and this term is whole in each
        size = self.config.option("preg") / world_size()
        weights = {"distillation": 1.0, "orthogonality": self.config.alpha, "regularisation": size}
        return Losses(sum(weights[name] * term for name, term in terms.items()), terms)

    def after_step(self, done: float) -> None:
        """The teacher moves towards the student; less and less (cosine from 0.996 to 1)."""
        momentum = 1 - (1 - TEACHER_MOMENTUM) * (1 + math.cos(math.pi * done)) / 2
        for teacher, student in ((self.encoder, self.student), (self.teacher_heads, self.heads)):
            for slow, fast in zip(teacher.parameters(), student.parameters()):
                slow.lerp_(fast.detach(), 1 - momentum)

    def _answers(self, heads: nn.ModuleDict, h: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
        """The logits of each part for each view; those of the whole batch."""
        cut = {"invariant": slice(None, self.split), "equivariant": slice(self.split, None)}
        return {part: [gather(z) for z in heads[part](torch.cat(h)[:, cut[part]]).chunk(len(h))] for part in cut}

    def _sharpened(self, part: str, logits: Tensor) -> Tensor:
        return ((logits - getattr(self, f"{part}_centre")) / TEACHER_TEMPERATURE).softmax(1)

    @torch.no_grad()
    def _move_centres(self, teacher: dict[str, list[Tensor]]) -> None:
        """DINO's guard against collapse: what the teacher says of everything is taken off what it says of one."""
        for part, logits in teacher.items():
            getattr(self, f"{part}_centre").lerp_(torch.cat(logits).mean(0), 1 - CENTRE_MOMENTUM)


def _mean(values) -> Tensor:
    return torch.stack(list(values)).mean()


def _size(head: nn.Module) -> Tensor:
    return torch.stack([parameter.square().sum() for parameter in head.parameters()]).sum()
