"""The rows, in the order of the report. A new row is a file here and a line in ROWS."""

from .build import Build
from .bundle import Bundle
from .capture import Capture, CaptureChanged
from .cold import Cold, ColdShare
from .container import ContainerCreate, ContainerExec, ContainerRun, ContainerRunFiltered
from .find import Find
from .git_status import GitStatus
from .inputs import Inputs
from .layers import CaptureLarge, ExportRoot, ImportRoot, NeighbouringRoots
from .live import Attach, Live
from .many import Many, Thousands
from .memory import Memory
from .read import Pages, Read
from .seccomp import Seccomp
from .traced import Traced, TracedSqlite
from .trial import TryApply, TryTrue, TryTrueUser
from .true import Touch, True_, TrueUser
from .warm import Warm

ROWS = {
    "true": True_,
    "true-user": TrueUser,
    "touch": Touch,
    "try-true": TryTrue,
    "try-true-user": TryTrueUser,
    "try-apply": TryApply,
    "live": Live,
    "attach": Attach,
    "bundle": Bundle,
    "container-run": ContainerRun,
    "container-run-filtered": ContainerRunFiltered,
    "container-create": ContainerCreate,
    "container-exec": ContainerExec,
    "build": Build,
    "traced": Traced,
    "traced-sqlite": TracedSqlite,
    "inputs": Inputs,
    "git-status": GitStatus,
    "capture": Capture,
    "capture-changed": CaptureChanged,
    "capture-large": CaptureLarge,
    "import-root": ImportRoot,
    "export-root": ExportRoot,
    "neighbours": NeighbouringRoots,
    "find": Find,
    "warm": Warm,
    "cold": Cold,
    "cold-share": ColdShare,
    "many": Many,
    "thousands": Thousands,
    "read": Read,
    "pages": Pages,
    "memory": Memory,
    "seccomp": Seccomp,
}
