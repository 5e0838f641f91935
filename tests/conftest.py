"""What every test gets: checked shapes and types, few threads, fixed seeds, no accelerator left by the test before."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception
from jaxtyping import install_import_hook

CHECKED = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def _check(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return CHECKED(function)
    except BeartypeDecorHintPep673Exception:  # `Self` is known to it in decorated classes only
        return function


# Dynamo cannot trace through the checks: tests of compiled models run with JAXTYPING_DISABLE=1.
if os.environ.get("JAXTYPING_DISABLE", "0").lower() not in ("1", "true"):
    checks = ModuleType("reverie_checks")  # the hook wants the checker by an importable name
    checks.check = _check  # type: ignore[attr-defined]
    sys.modules["reverie_checks"] = checks
    install_import_hook(["tokenizer", "dynamics", "agent", "launch"], "reverie_checks.check")

torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", "2"))))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
