"""Images that networks learn from and are evaluated by.

`load_data` takes an image folder, `fashion-mnist`, `digits`, or a factory of torch datasets, and
gives three sets that share no image: to train on, to steer a search by (held out from training),
and to report in the end. Images are read when they are asked for.

`images` holds the sets, `preprocessing` makes inputs of networks from pictures, and `folder`,
`fashion_mnist`, `digits` and `factory` know one kind of source each; `loading` chooses among them
and splits.
"""

from hwbench.search.data.factory import imported
from hwbench.search.data.images import Data, Images, in_memory, random_ids, synthetic
from hwbench.search.data.loading import find_picture_shape, load_data
from hwbench.search.data.preprocessing import Preprocessing

__all__ = [
    "Data",
    "Images",
    "Preprocessing",
    "find_picture_shape",
    "imported",
    "in_memory",
    "load_data",
    "random_ids",
    "synthetic",
]
