"""A data module of smooth random clips, in the form that every stage takes."""

import torch
from lightning.pytorch import LightningDataModule
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset


class _Clips(Dataset):
    def __init__(self, count, frames, crop, images):
        self.count, self.frames, self.crop, self.images = count, frames, crop, images

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        sample = self._sample(index, self.frames)
        return sample | ({"image": self._sample(index + 1000, 1)} if self.images else {})

    def _sample(self, seed, frames):
        coarse = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        hr = interpolate(coarse[None], (frames, self.crop, self.crop), mode="trilinear")[0]
        return {"hr": hr, "lr": (hr * 16).round() / 16, "seed": torch.tensor(seed)}


class RandomClips(LightningDataModule):
    """Clips that depend on their index alone."""

    def __init__(
        self, batch_size: int = 1, frames: int = 9, crop: int = 128, images_per_batch: int = 0, epoch_batches: int = 8
    ):
        super().__init__()
        self.sizes = epoch_batches * batch_size, frames, crop, images_per_batch
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(_Clips(*self.sizes), self.batch_size)

    def val_dataloader(self):
        return DataLoader(_Clips(self.batch_size, *self.sizes[1:]), self.batch_size)
