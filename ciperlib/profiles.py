"""Profiles: the same work at three sizes (smoke, teaching, paper), as parameters in notebooks/profiles."""

from __future__ import annotations

from typing import Any

import yaml

from ciperlib.config import ConfigError, nearest
from ciperlib.data.imageset import home


def profile_parameters(profile: str, section: str) -> dict[str, Any]:
    """What a profile sets for one notebook (by its stem) or, with section "config", for `fit`.

    Raises:
        ConfigError: there is no such profile.
    """
    folder = home() / "notebooks" / "profiles"
    path = folder / f"{profile}.yml"
    if not path.is_file():
        raise ConfigError(f"there is no profile {profile!r}{nearest(profile, [p.stem for p in folder.glob('*.yml')])}")
    return dict((yaml.safe_load(path.read_text()) or {}).get(section) or {})
