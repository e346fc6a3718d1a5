"""The rows, in the order of the report. A new row is a file here and a line in ROWS."""

from .build import Build
from .bundle import Bundle
from .capture import Capture
from .cold import Cold, ColdShare
from .find import Find
from .git_status import GitStatus
from .inputs import Inputs
from .live import Attach, Live
from .many import Many, Thousands
from .traced import Traced
from .true import Touch, True_, TrueUser

ROWS = {
    "true": True_,
    "true-user": TrueUser,
    "touch": Touch,
    "live": Live,
    "attach": Attach,
    "bundle": Bundle,
    "build": Build,
    "traced": Traced,
    "inputs": Inputs,
    "git-status": GitStatus,
    "capture": Capture,
    "find": Find,
    "cold": Cold,
    "cold-share": ColdShare,
    "many": Many,
    "thousands": Thousands,
}
