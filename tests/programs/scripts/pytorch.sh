#!/bin/bash
# PyTorch: a small network is trained on what two worker processes load.
set -e
"${0%/*}/begin.sh"
python3 - >result <<'END'
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 6000

    def __getitem__(self, index):
        place = torch.full((64,), index / 6000.0)
        return torch.sin(place * torch.arange(64)), torch.tensor([index / 6000.0])

torch.manual_seed(1)
torch.set_num_threads(2)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1))
step = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(12):
    for given, wanted in DataLoader(Numbers(), batch_size=50, num_workers=2):
        step.zero_grad()
        loss = torch.nn.functional.mse_loss(model(given), wanted)
        loss.backward()
        step.step()
print(f"{loss.item():.5f}")
END
