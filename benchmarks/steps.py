"""Measuring one model and fine-tuning method: our training, and the loop that one would write."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from inputs import CLASSES
from peaks import flops_per_image
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.core.device import device, tf32
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages, epoch_batches, load_batches
from ppvit.data.readers import loader_workers
from ppvit.training.checkpoint import Checkpoint
from ppvit.training.hardware import Arithmetic, checkpoint_gradients
from ppvit.training.loop import Training, make_accelerator
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner


class Enough(Exception):
    """A measurement is long enough."""


class Unsaved(Checkpoint):
    """Saves nothing: on an epoch of a second it would be most of the work."""

    def __init__(self) -> None:
        super().__init__({}, scratch_folder())

    def due(self) -> bool:
        return False

    def save(self, *_: Any) -> None:
        pass


class Repeated(EncryptedImages):
    """Images over and over, as many as ``count`` says: an epoch that is short for a card would be mostly its ends."""

    def __init__(self, images: EncryptedImages) -> None:
        vars(self).update(vars(images))
        self._images, self.count = images, len(images)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, sample: int) -> tuple[torch.Tensor, Any]:
        return self._images[sample % len(self._images)]


def speed(
    name: str,
    architecture: str,
    arguments: dict[str, Any],
    batch: int,
    method: str,
    dataset: Repeated,
    steady: float,
    peak: float | None = None,
    expected: float | None = None,
    compiled: bool = False,
    gradient_checkpointing: bool = False,
) -> dict[str, Any]:
    """One model and method: the bare loop, and ours.

    Args:
        name, architecture, arguments: of the model, for people and for timm.
        batch: images in a step.
        method: of fine-tuning.
        dataset: what is trained on; its length is set to half of the seconds.
        steady: seconds of training that are measured, after a first epoch.
        peak: of the card, in FLOP/s.
        expected: images/s, where the bare loop, which would tell, is not to be measured.
        compiled, gradient_checkpointing: for our training.
    """

    def network() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(architecture, num_classes=CLASSES, **arguments)

    size = dataset.manifest["image_size"]
    found: dict[str, Any] = {"model": name, "method": method, "batch": batch}
    found |= {"compiled": compiled, "gradient_checkpointing": gradient_checkpointing}
    if expected is None:
        alone = measured(lambda: loop(with_stock_adapters(network(), method), batch, size, steady))
        found |= {f"bare_{figure}": value for figure, value in alone.items()}
        expected = alone["images_per_second"]
    dataset.count = batch * max(2, int(expected * steady / 2 / batch))
    settings = Finetune(method=method, rank=8, batch_size=batch, epochs=10_000, learning_rate=1e-4)
    with environment(PPVIT_COMPILE="1" if compiled else "0"):
        found |= measured(lambda: train(settings, network(), dataset, steady, gradient_checkpointing))
    torch._dynamo.reset()  # or it would hold the model
    flops = flops_per_image(make_tuner(settings).attach(network()), size)
    found["gflops_per_image"] = round(flops / 1e9, 2)
    if peak:
        found["peak_percent"] = round(100 * found["images_per_second"] * flops / peak, 1)
    if "bare_images_per_second" in found:
        found["against_bare"] = round(found["images_per_second"] / found["bare_images_per_second"], 3)
    return found


def measured(run: Callable[[], tuple[float, float]]) -> dict[str, Any]:
    """Images/s and seconds until the first step was done, as ``run`` tells; and the card's memory, as it has it."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rate, first = run()
    memory = torch.cuda.max_memory_allocated() / 2**30 if device().type == "cuda" else None
    return {
        "images_per_second": round(rate, 1),
        "first_seconds": round(first, 2),
        "memory_gib": memory and round(memory, 2),
    }


def train(
    settings: Finetune, network: nn.Module, dataset: Repeated, steady: float, gradient_checkpointing: bool
) -> tuple[float, float]:
    """Images/s of our training after its first epoch, and the seconds of that."""
    times = [time.perf_counter()]

    def note(*_: Any) -> None:
        times.append(time.perf_counter())
        if len(times) > 2 and times[-1] - times[1] >= steady:
            raise Enough

    tuner = make_tuner(settings)
    model = tuner.attach(network)
    if gradient_checkpointing:
        checkpoint_gradients(model, settings.batch_norm)
    optimizer = make_optimizer(settings, model, tuner.learning_rates(), tuner.undecayed)
    accelerator = make_accelerator(settings.precision)
    with contextlib.suppress(Enough):
        Training(settings, accelerator, model, optimizer, dataset, Unsaved(), note).run()
    return len(dataset) * (len(times) - 2) / (times[-1] - times[1]), times[1] - times[0]


def with_stock_adapters(network: nn.Module, method: str) -> nn.Module:
    """What one would write with peft."""
    if method == "full":
        return network
    targets = ["qkv"] if method == "melo" else ["qkv", "proj", "fc1", "fc2"]
    targets = [rf".*blocks\..*\.{name}" for name in targets]
    config = LoraConfig(r=8, lora_alpha=16, target_modules="|".join(targets), modules_to_save=["head"])
    return get_peft_model(network, config)


def loop(model: nn.Module, batch: int, size: int, steady: float) -> tuple[float, float]:
    """Images/s of a bare loop after its first step, and the seconds of that."""
    place, half = device(), Arithmetic.of("auto").precision == "bf16"
    model = model.to(place).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=place.type == "cuda")
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=place)
    labels = torch.arange(batch, device=place) % CLASSES

    def step() -> None:
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            loss = functional.cross_entropy(model(images.float() / 127.5 - 1), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def wait() -> float:
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    with tf32(Arithmetic.of("auto").tf32):
        start = wait()
        step()
        first, steps = wait(), 0
        while steps == 0 or wait() - first < steady:
            for _ in range(4):
                step()
            steps += 4
        return steps * batch / (wait() - first), first - start


def read(dataset: Repeated, batch: int, steady: float) -> dict[str, Any]:
    """Images/s of the readers alone, as far as the device."""
    start, images, epoch = time.perf_counter(), 0, 0
    while epoch == 0 or time.perf_counter() - start < steady:
        for loaded, _ in load_batches(dataset, epoch_batches(len(dataset), batch, 0, epoch)):
            loaded.to(device(), non_blocking=True)
            images += len(loaded)
        epoch += 1
    if device().type == "cuda":
        torch.cuda.synchronize()
    return {"images_per_second": round(images / (time.perf_counter() - start), 1), "processes": loader_workers()}


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
