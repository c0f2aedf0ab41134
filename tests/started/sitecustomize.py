"""What Python does first in the processes that tests start (tests/conftest.py has this folder on their path).

They import and trace for seconds, which makes a million objects that stay, and end. By its defaults Python would look
through them again and again for cycles: a tenth of the CPU time of a tiny training run.
"""

import gc

gc.set_threshold(100_000, 20, 10)
