"""One torch thread per worker: small networks are faster so, and two workers share two cores."""

import torch as th

th.set_num_threads(1)
