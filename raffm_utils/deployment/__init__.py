"""Deploying a submodel: verified folders, PyTorch and ONNX graphs, int8, a client without this package.

`deploy` goes from a budget to a folder in one call.
"""

from .deploy import CANDIDATES, DEPLOYED_FORMATS, about, deploy
from .export import FORMATS, Export, ExportedFile, export_submodel
from .graphs import QUANTIZATION_EXAMPLES, GraphClassifier
from .preprocessing import settings_of
from .submodel_folder import load_submodel, widths_of
