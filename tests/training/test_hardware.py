"""What training uses of its device: as far as a machine without a GPU can tell.

Every method computes a step on the device ``meta``, which refuses tensors that were left behind on the CPU, and a
forward pass on an imitated GPU; questions to the card are answered by the test.
"""

import contextlib
import copy
import sys
import warnings

import pytest
import timm
import torch
from conftest import tiny_backbone
from test_finetune import changed, make_world, places_of, train
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.core import device, results
from ppvit.core.errors import UsageError
from ppvit.models import MICRO, MICRO_ARCHITECTURE, model_input
from ppvit.models.batch_norm import set_batch_norm
from ppvit.training import hardware
from ppvit.training.hardware import Arithmetic, arrange, attention_in_steps, checkpoint_gradients, take_back
from ppvit.training.loop import Training, make_accelerator
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import TUNERS, load_finetuned, make_tuner


@pytest.fixture
def card(monkeypatch):
    """Let torch say that there is a GPU of a given generation: 7 (V100), 8 (A100), 9 (H100)."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("PPVIT_COMPILE", raising=False)

    def answer(generation: int) -> None:
        properties = type("Properties", (), {"major": generation})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    return answer


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.delenv("PPVIT_COMPILE", raising=False)


@pytest.mark.parametrize(
    ("generation", "precision", "expected"),
    [
        (9, "auto", ("bf16", True)),
        (8, "auto", ("bf16", True)),
        (7, "auto", ("fp32", False)),
        (9, "fp32", ("fp32", False)),
        (9, "bf16", ("bf16", True)),
        (9, "fp16", ("fp16", True)),
        (7, "fp16", ("fp16", False)),
    ],
)
def test_arithmetic_of_a_gpu(card, generation, precision, expected):
    card(generation)
    assert Arithmetic.of(precision) == Arithmetic(*expected, compiled="no")


def test_arithmetic_of_a_cpu_also_where_there_is_a_gpu(card, monkeypatch):
    assert Arithmetic.of("auto") == Arithmetic("fp32", False, "no")
    assert Arithmetic.of("bf16") == Arithmetic("bf16", False, "no")
    card(9)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("PPVIT_COMPILE", "eager")
    assert Arithmetic.of("auto") == Arithmetic("fp32", False, "eager")
    with pytest.raises(UsageError, match=r"^finetune\.precision fp16 needs a GPU; use bf16 or fp32$"):
        Arithmetic.of("fp16")
    assert results.environment()["device"] == "cpu"


def rounded() -> tuple[bool, bool]:
    """Whether products of matrices, and convolutions, may be rounded, by the newer names and by the older ones."""
    newer = [torch.backends.cuda.matmul.fp32_precision == "tf32", torch.backends.cudnn.conv.fp32_precision == "tf32"]
    older = [torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32]
    assert newer == older  # or torch.compile stops: pytorch/pytorch#166387
    return newer[0], newer[1]


def test_tf32_is_for_training_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device.device()
        assert rounded() == (False, False)
        with Arithmetic("bf16", True, "no").in_force():
            assert rounded() == (True, True)
            device.device()  # as validation asks for it
            assert rounded() == (True, True)
        assert rounded() == (False, False)
        with pytest.raises(KeyError), Arithmetic("bf16", True, "no").in_force():
            raise KeyError
        assert rounded() == (False, False)


def small(**arguments) -> nn.Module:
    return timm.create_model(MICRO_ARCHITECTURE, **{**MICRO, "depth": 2, "num_classes": 3, **arguments})


def imitated(model: nn.Module, place: str) -> nn.Module:
    """Parameters and buffers without values on another device, with what hangs on them; all else stays."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=place)
                new = nn.Parameter(empty, parameter.requires_grad)
                for hook in (parameter._backward_hooks or {}).values():
                    new.register_hook(hook)
                new.__dict__.update(vars(parameter))
                module._parameters[name] = new
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=place)
    return model


@pytest.mark.parametrize("method", TUNERS)
def test_every_method_leaves_nothing_behind_on_the_cpu(method):
    settings = Finetune(method=method, rank=2, frequencies=50)
    tuner = make_tuner(settings)
    model = tuner.attach(small()).train()
    for place in ("meta", "cuda"):  # autograd looks for a real GPU, so that the imitated one is for the way forward
        moved = copy.deepcopy(model)
        with FakeTensorMode(allow_non_fake_inputs=True) if place == "cuda" else torch.device("cpu"):
            imitated(moved, place)
            images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device=place)
            logits = moved(model_input(images))
            assert (logits.shape, logits.device.type) == ((4, 3), place)
            loss = functional.cross_entropy(logits.float(), torch.empty(4, dtype=torch.int64, device=place))
            if place == "meta":
                optimizer = make_optimizer(settings, moved, tuner.learning_rates(), tuner.undecayed)
                loss.backward()
                trained = [parameter for parameter in moved.parameters() if parameter.requires_grad]
                assert trained
                assert all(parameter.grad.device.type == "meta" for parameter in trained)
                optimizer.step()


def test_what_is_left_behind_is_found():
    """The test before, on a layer with a tensor that does not move along."""

    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(3, 3), torch.ones(3)

        def forward(self, inputs):
            return self.layer(inputs) * self.scale

    with pytest.raises(RuntimeError, match="device"):
        imitated(Left(), "meta")(torch.empty(2, 3, device="meta"))
    with pytest.raises(RuntimeError, match="device"), FakeTensorMode(allow_non_fake_inputs=True):
        imitated(Left(), "cuda")(torch.empty(2, 3, device="cuda"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimisers_are_fused_on_a_gpu_alone(card, optimizer):
    settings = Finetune(optimizer=optimizer)
    assert not make_optimizer(settings, nn.Linear(2, 2)).defaults["fused"]
    card(9)
    assert make_optimizer(settings, nn.Linear(2, 2)).defaults["fused"]


def gradients(model: nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients by name, and how many numbers were kept for the backward pass."""
    torch.manual_seed(1)  # of dropout
    kept = []
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(0 if tensor.untyped_storage().data_ptr() in own else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = functional.cross_entropy(model(images), torch.arange(len(images)) % 3)
    loss.backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found, sum(kept)


@pytest.mark.parametrize("network", ["vit", "resnet"])
@pytest.mark.parametrize("method", ["full", "lora", "melo", "vpt_deep", "hta_adapter", "linear"])
@pytest.mark.usefixtures("uncompiled")
def test_gradients_are_equal_with_gradient_checkpointing(method, network):
    settings = Finetune(method=method, rank=2, dropout=0.2)
    if network == "resnet" and not TUNERS[method].convolutions and method != "linear":
        pytest.skip("for linear layers alone")
    torch.manual_seed(0)
    bare = small() if network == "vit" else timm.create_model("resnet18", num_classes=3)
    model = set_batch_norm(make_tuner(settings).attach(bare), "frozen").train()
    images = torch.rand(3, 3, 32, 32)
    plain, all_kept = gradients(model, images)
    checkpoint_gradients(model, "frozen")
    saving, kept = gradients(model, images)
    assert saving.keys() == plain.keys() != set()
    for name, gradient in plain.items():
        assert saving[name].equal(gradient), name
    assert kept < all_kept / 2 or method == "linear"  # which keeps nothing of the backbone anyway


@pytest.mark.usefixtures("uncompiled")
def test_gradient_checkpointing_where_it_cannot_be(monkeypatch):
    model = timm.create_model("resnet18", num_classes=3)
    with pytest.raises(UsageError, match=r"^finetune\.gradient_checkpointing computes twice, .*batch_norm stats every"):
        checkpoint_gradients(model, "stats")
    with pytest.raises(
        UsageError, match=r"^finetune\.gradient_checkpointing: timm's Sequential cannot do that; set it"
    ):
        checkpoint_gradients(nn.Sequential(), "frozen")
    monkeypatch.setenv("PPVIT_COMPILE", "eager")
    with pytest.raises(UsageError, match=r"with PPVIT_COMPILE eager has wrong gradients where there is dropout; set"):
        checkpoint_gradients(model, "frozen")


def test_a_run_with_gradient_checkpointing_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.delenv("PPVIT_COMPILE", raising=False)
    config = make_world(tmp_path, epochs=1)
    plain = train(tmp_path, config)
    assert [plain[name] for name in ("precision", "tf32", "compiled")] == ["fp32", False, "no"]
    saving = train(tmp_path, changed(config, gradient_checkpointing=True), "saving")
    assert saving["train_loss"] == plain["train_loss"]
    files = [places_of(tmp_path, name).finetuned / "adapter_model.safetensors" for name in ("finetuned", "saving")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("method", "precision"), [("full", "bf16"), ("lora", "bf16"), ("lora", "fp32")])
def test_a_compiled_model_is_one_graph(method, precision):
    """Nothing of ours, peft's or accelerate's around the layers makes the compiler give up half-way."""
    torch._dynamo.reset()
    counters.clear()
    settings = Finetune(method=method, rank=2, precision=precision)
    model = make_tuner(settings).attach(small()).train()
    prepared = make_accelerator(precision).prepare(hardware.place(model, Arithmetic(precision, False, "eager")))
    functional.cross_entropy(prepared(torch.rand(3, 3, 32, 32)), torch.arange(3)).backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert take_back(model)._compiled_call_impl is None


def steps_of_attention(model: nn.Module) -> list[bool]:
    """Whether each attention of a model uses the fused kernel."""
    return [module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")]


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
@pytest.mark.parametrize("ends", ["as it should", "by an error"])
def test_attention_is_computed_in_steps_while_a_cpu_trains_in_bf16(tmp_path, monkeypatch, precision, fused, ends):
    config, seen, models = make_world(tmp_path, epochs=1, precision=precision), [], []
    step = Training._optimizer_step

    def observed(self, number):
        models.append(self.model)
        seen.append(steps_of_attention(self.model))
        if ends == "by an error" and number == 2:
            raise KeyError
        step(self, number)

    monkeypatch.setattr(Training, "_optimizer_step", observed)
    with pytest.raises(KeyError) if ends == "by an error" else contextlib.nullcontext():
        train(tmp_path, config)
    assert len(seen) == (3 if ends == "by an error" else 7)  # 50 images, 8 in a step
    assert seen == [[fused, fused]] * len(seen)  # in both layers
    assert steps_of_attention(models[0]) == [True, True]


def test_attention_in_steps_leaves_what_was_not_fused():
    """A module that computes in steps anyway, for instance because a part of it is looked at, does so afterwards."""
    model = small()
    model.blocks[0].attn.fused_attn = False
    with attention_in_steps(model, Arithmetic("bf16", False, "no")):
        assert steps_of_attention(model) == [False, False]
    assert steps_of_attention(model) == [False, True]


def test_attention_keeps_the_fused_kernel_on_a_gpu(card):
    card(9)
    model = small()
    with attention_in_steps(model, Arithmetic("bf16", True, "no")):
        assert steps_of_attention(model) == [True, True]


def test_gradients_with_attention_in_steps_are_the_fused_kernels_to_rounding():
    """Both lie about as far from the gradients in float64."""
    torch.manual_seed(0)
    model, images = small(), torch.rand(16, 3, 32, 32)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)

    def computed(precision: str, in_steps: bool = False) -> dict[str, torch.Tensor]:
        arithmetic = Arithmetic("bf16" if in_steps else "fp32", False, "no")
        half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with attention_in_steps(model, arithmetic), half:
            assert steps_of_attention(model) == [not in_steps] * 2
            found, _ = gradients(model, images)
        return found

    exact = {name: gradient.double() for name, gradient in computed("fp32").items()}
    fused, steps = computed("bf16"), computed("bf16", in_steps=True)
    assert steps.keys() == fused.keys() == exact.keys()
    for name, gradient in exact.items():
        apart = [(each[name].double() - gradient).norm() / gradient.norm() for each in (fused, steps)]
        assert 0 < apart[1] < max(2 * apart[0], 2**-7), name


def test_channels_last_trains_to_the_same_and_is_stored_as_ever(tmp_path, monkeypatch):
    config = make_world(tmp_path, epochs=1, method="full", learning_rate=1e-4)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    arrange(network)
    assert network[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert not network[2].weight.is_contiguous()
    assert network(torch.rand(2, 3, 9, 9)).is_contiguous(memory_format=torch.channels_last)  # inputs follow
    take_back(network)
    assert network[2].weight.is_contiguous()
    patches = tiny_backbone().model
    arrange(patches)
    assert all(parameter.is_contiguous() for parameter in patches.parameters())
    plain = train(tmp_path, config)["train_loss"]
    monkeypatch.setattr(
        "ppvit.training.loop.place", lambda model, _: model.to(memory_format=torch.channels_last)
    )  # whatever the network
    assert train(tmp_path, config, "arranged")["train_loss"] == pytest.approx(plain, rel=1e-4)
    load_finetuned(tmp_path / "adapted", tmp_path / "arranged", 3)


def test_device_is_asked_without_torch():
    """The command's help and the owner's verbs do not load it for that."""
    assert "torch" not in vars(device)
    assert sys.modules["ppvit.core.results"].keeps_to_cpu is device.keeps_to_cpu
    assert hardware.device is device.device
