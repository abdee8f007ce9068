"""Post-training, resource-aware deployment of federated foundation models.

The names for everyday use are in `__init__.pyi`; all others belong to their wing, such as `raffm_utils.federated`.
Each is imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
