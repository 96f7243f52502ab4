"""What differs between the versions of Transformers that the tests run beside: 4.57, and 5 as it came.

Whoever meets a difference gives it a name here; what it means for a test stands in the test.
"""

import transformers

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
OLD = VERSION < (5, 0)

# Up to 5.23 outputs and calls said `past_key_values` for the cache of decoding.
CACHE = "past_key_values" if VERSION < (5, 24) else "cache"
CACHE_LENGTH = f"{CACHE}_length"  # BART's positions are called with it
CACHE_FIELDS = ("past_key_values", "cache")  # files that were written beside other versions may have either
