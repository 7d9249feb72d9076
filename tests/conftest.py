import torch
from hypothesis import settings

settings.register_profile("surmin", deadline=None)  # a busy machine is not a failure
settings.load_profile("surmin")
torch.set_num_threads(1)
