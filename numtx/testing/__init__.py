"""Check it: gradients, specs, the battery of properties, and the catalogue of mistakes.

Three ways in. `gradcheck` checks a backward of your own against differences of your forward; `check_pair` checks your
implementation of something numtx has against its spec, and says which known mistake it is; `check` is what
`numtx check` runs over numtx itself. Nothing here needs more than NumPy and SciPy.
"""

from numtx.testing.battery import Options, battery, rejected, rejection
from numtx.testing.check import cases, check, check_pair, check_spec, diagnose
from numtx.testing.drawer import SCALES, Drawer
from numtx.testing.findings import Finding
from numtx.testing.gradcheck import assert_gradients, gradcheck
from numtx.testing.mistake import Mistake, planted
from numtx.testing.pieces import small_blocks
from numtx.testing.registry import MISTAKES, SPECS, find_spec, mistakes_of
from numtx.testing.report import Report, Row
from numtx.testing.spec import Case, Pair, Spec

__all__ = [
    "MISTAKES",
    "SCALES",
    "SPECS",
    "Case",
    "Drawer",
    "Finding",
    "Mistake",
    "Options",
    "Pair",
    "Report",
    "Row",
    "Spec",
    "assert_gradients",
    "battery",
    "cases",
    "check",
    "check_pair",
    "check_spec",
    "diagnose",
    "find_spec",
    "gradcheck",
    "mistakes_of",
    "planted",
    "rejected",
    "rejection",
    "small_blocks",
]
