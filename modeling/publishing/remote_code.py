"""What lets the Auto classes of transformers load a pushed adapter in a process that has not imported any2point_hf.

A module beside the adapter imports the classes from the installed package, and nothing else; `auto_map` in the configs
names them. It runs where somebody passes `trust_remote_code=True`; our own loading never runs it.
"""

MODULE = "any2point.py"
AUTO_MAP = "auto_map"
OF_MODEL = {"AutoConfig": "any2point.Any2PointConfig", "AutoModel": "any2point.Any2PointModel"}
OF_PROCESSOR = {
    "AutoFeatureExtractor": "any2point.Any2PointProcessor",
    "AutoProcessor": "any2point.Any2PointProcessor",
}
CODE = b"""try:  # the classes are in the package; this file only names them
    from any2point_hf import Any2PointConfig, Any2PointModel, Any2PointProcessor
except ImportError:
    raise ImportError("this model needs the package any2point-hf: pip install any2point-hf") from None
"""


class NotCopied:
    """Keeps transformers from copying our source beside what it saves, once such a class was loaded as remote code."""

    @classmethod
    def register_for_auto_class(cls, auto_class: object = None) -> None:
        """Does nothing.

        Args:
            auto_class: the Auto class that has loaded this one.
        """
