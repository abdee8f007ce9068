"""What a submodel is and what it costs: axes, families, budgets, exact counts and draws, device classes.

Knows no weights, and needs no torch. `families` holds the one table per architecture that everything else is generic
over.
"""

from .axes import Axis, Family, Live, Parameter, Role, SubmodelConfig, Totals, Use
from .budget import LATENCY, METRICS, NS_PER_MS, PEAK, SIZE_TOKENS, Affine, Budget, Choices
from .cost import Conditions, Cost, CostModel, PeakActivation
from .devices import DEVICE_CAPS, FLEETS, PRESETS, PUBLISHED_SETTINGS, SYSTEM_SETTINGS, DeviceClass
from .draws import NEAR, near_share, near_the_limit, sample_between, spread_over_size, spread_over_widths
from .elastic_space import ElasticSpace
from .families import BERT, FAMILIES, VIT, family_of
from .inside import Inside, Region
from .latency import AffineLatency, Timed
from .randomness import Rng, generator
from .ways import Ways
