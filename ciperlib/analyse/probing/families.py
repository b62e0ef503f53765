"""What can be read of objects that an encoder has seen, of new ones, and in new places: the table of the families."""

from __future__ import annotations

import pandas as pd
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.probing.compass import check_new, compass_cost, fit_teams, fit_turned
from ciperlib.analyse.probing.conditional import degrees_off, fit_within
from ciperlib.analyse.probing.probes import fit_linear_probe, fit_regression_probe

TEAMS = (2, 5, 20, 100)  # objects that one map serves
SEEN, NEW, PLACES = "objects seen", "new objects", "new places"


@recipe(1)
def probe_families(
    train: Features, seen: Features, new: Features, places: Features, *, seed: int = 0
) -> pd.DataFrame:  # fmt: skip
    """Probes fitted on one training part, and asked of the same objects in other poses, of new objects of the same
    categories, and of the same objects in other places.

    Args:
        train, seen, new, places: features of one encoder with the turntable's factors; no object of `new` is in
            `train`.

    Returns:
        A row for each question: factor, how, of ("objects seen", "new objects" or "new places"), value (mean over the
        objects of accuracy, of the azimuth's error in degrees; of elevation and distance R2 over all images), and where
        it is a mean over objects a column for each.

        How: "all", one map for all objects. The azimuth of objects seen also by a map for each "category", "object" or
        "guessed object", for teams ("5 objects"), and by one map with a turn for each object ("turn"). The azimuth of
        new objects also by a map for each category, and from labelled views: "5 views, one turn", "5 views, own map".

    Raises:
        ProbeError: an object of `new` that is in `train`; otherwise as the probes.
    """
    check_new(train, new)
    options, rows = dict(seed=seed, resamples=0), []

    def add(factor: str, how: str, of: str, test: Features, values: Tensor) -> None:
        labels = test.labels.get("object")
        names = [labels[i] if labels else i for i in test.factors["object"].tolist()]
        each = pd.Series(values.double().numpy()).groupby(names, sort=False).mean()
        rows.append({"factor": factor, "how": how, "of": of, "value": each.mean(), **each})

    for of, test in ((SEEN, seen), (NEW, new), (PLACES, places)):
        add("category", "all", of, test, fit_linear_probe(train, test, "category", **options).scores)
        add("azimuth", "all", of, test, degrees_off(fit_regression_probe(train, test, "azimuth", **options), test))
        for factor in ("elevation", "distance"):
            value = fit_regression_probe(train, test, factor, **options).value
            rows.append({"factor": factor, "how": "all", "of": of, "value": value})
    for of, test in ((SEEN, seen), (NEW, new)):
        add("session", "all", of, test, fit_linear_probe(train, test, "session", **options).scores)
        by_category = fit_within(train, test, "azimuth", "category", **options)
        add("azimuth", "category", of, test, degrees_off(by_category, test))
    guessed = fit_linear_probe(train, seen, "object", **options)
    add("object", "all", SEEN, seen, guessed.scores)
    azimuth = {
        "object": fit_within(train, seen, "azimuth", "object", **options),
        "guessed object": fit_within(train, seen, "azimuth", "object", told=guessed.prediction, **options),
        "turn": fit_turned(train, seen, **options),
        **{f"{size} objects": fit_teams(train, seen, size, seed=seed) for size in TEAMS},
    }
    for how, found in azimuth.items():
        add("azimuth", how, SEEN, seen, degrees_off(found, seen))
    cost = compass_cost(train, new, seed=seed)
    cost["how"] = cost.pop("views").astype(str) + " views, " + cost["how"]
    return pd.concat([pd.DataFrame(rows), cost.assign(factor="azimuth", of=NEW)], ignore_index=True)
