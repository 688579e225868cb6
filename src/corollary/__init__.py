"""Machine learning's numerical methods on one interface, each answer with a certificate that can be checked."""

import lazy_loader as _lazy

__version__ = "0.1.0"

# Rooms are imported when first touched, so that `import corollary` costs next to nothing.
__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["core", "factor", "linalg", "linear", "nn", "optim", "report", "train"],
    submod_attrs={"core.model_file": ["load"]},
)
__all__ += ["__version__"]
