"""Methods: how a stream is learned; one file per method, all with the same parts."""

from vlcl_toolkit.methods.base import Method, percent_correct
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.prefix_tuning import PrefixTuning
from vlcl_toolkit.methods.import_official import Imported, import_official, load_imported
from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters
from vlcl_toolkit.methods.registry import (
    make_config,
    make_method,
    method_class,
    method_names,
    register,
)
from vlcl_toolkit.methods.zero_shot import ZeroShot
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.methods.zscl.icarl import Icarl
from vlcl_toolkit.methods.zscl.lwf import Lwf, LwfVr
from vlcl_toolkit.methods.zscl.wise_ft import WeightConsolidation, WeightEnsemble, WiseFt
from vlcl_toolkit.methods.zscl.zscl import Zscl

__all__ = [
    "Diki",
    "Finetune",
    "Icarl",
    "Imported",
    "Lwf",
    "LwfVr",
    "Method",
    "MoEAdapters",
    "PrefixTuning",
    "WeightConsolidation",
    "WeightEnsemble",
    "WiseFt",
    "ZeroShot",
    "Zscl",
    "import_official",
    "load_imported",
    "make_config",
    "make_method",
    "method_class",
    "method_names",
    "percent_correct",
    "register",
]
