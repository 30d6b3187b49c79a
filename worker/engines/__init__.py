"""One file a model family, all behind the contract of `base.py` and found through `registry.py`."""
