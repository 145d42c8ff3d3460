"""PyTorch: what travels, what stays, and what is refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from client_sdk.adapters import TorchAdapter, TorchGradients, adapter_for  # noqa: E402
from client_sdk.adapters.torch import check_tensor  # noqa: E402
from he_agg.errors import InputError, Reason  # noqa: E402


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def test_parameters_and_float_buffers_travel_and_counters_stay():
    adapter, model = adapter_for(network()), network()
    assert isinstance(adapter, TorchAdapter)
    assert list(adapter.tensors(model)) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight", "3.bias",
    ]  # fmt: skip
    assert list(adapter.local(model)) == ["1.num_batches_tracked"]
    assert adapter.statistics(model) == {"1.running_mean", "1.running_var"}


def test_state_goes_round_to_the_bit_and_counters_are_left_alone():
    source, target = network(1), network(2)
    source(torch.randn(8, 3))
    adapter = TorchAdapter()
    counted = target[1]
    assert adapter.load(target, adapter.tensors(source)) is target
    for name, tensor in source.state_dict().items():
        if name != "1.num_batches_tracked":
            assert torch.equal(tensor, target.state_dict()[name])
    assert int(counted.num_batches_tracked) == 0
    adapter.load_local(target, adapter.local(source))
    assert int(counted.num_batches_tracked) == 1


def test_fedbn_keeps_batchnorm_personal():
    adapter = TorchAdapter(exclude="1.*")
    assert list(adapter.tensors(network())) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(3)
    adapter.load(model, adapter.tensors(network(5)))
    assert model[1].weight.tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (4, 3, 2)])
def test_dtypes_and_shapes_go_round(dtype, shape):
    def module(values):
        m = nn.Module()
        m.w = nn.Parameter(values)
        return m

    values = torch.randn(shape, dtype=torch.float64).to(dtype)
    adapter = TorchAdapter()
    tensors = adapter.tensors(module(values))
    assert tensors["w"].dtype == np.dtype(str(dtype).split(".")[1].replace("bfloat16", "float32"))
    assert tensors["w"].shape == shape
    back = adapter.load(module(torch.zeros(shape, dtype=dtype)), tensors)
    assert back.w.dtype == dtype
    assert torch.equal(back.w, values)


def test_non_contiguous_parameters_and_views_go_round():
    m = nn.Module()
    m.w = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    m.channels_last = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    tensors = TorchAdapter().tensors(m)
    assert tensors["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors["channels_last"].flags.c_contiguous
    TorchAdapter().load(m, {name: array[::-1] for name, array in tensors.items()})
    assert m.w.tolist() == [[2, 5], [1, 4], [0, 3]]
    assert not m.w.is_contiguous()


def test_arrays_are_copies_of_the_module():
    model = network()
    TorchAdapter().tensors(model)["0.bias"][:] = 9
    assert 9 not in model[0].bias.tolist()


def test_tied_weights_travel_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    adapter = TorchAdapter()
    assert list(adapter.tensors(model)) == ["0.weight"]
    adapter.load(model, {"0.weight": np.ones((2, 2), np.float32)})
    assert model.state_dict()["1.weight"].tolist() == [[1, 1], [1, 1]]


def test_a_running_variance_never_becomes_negative():
    model = network()
    tensors = TorchAdapter().tensors(model)
    tensors["1.running_var"][:] = -1e-6
    TorchAdapter().load(model, tensors)
    assert model[1].running_var.tolist() == [0, 0, 0, 0]


def test_gradients_are_read_and_set():
    model = network()
    model(torch.randn(8, 3)).sum().backward()
    adapter = TorchGradients()
    tensors = adapter.tensors(model)
    assert "1.running_mean" not in tensors
    adapter.load(model, {name: np.full_like(array, 2) for name, array in tensors.items()})
    assert model[0].bias.grad.tolist() == [2, 2, 2, 2]
    model[0].bias.grad = None
    with pytest.raises(InputError, match=r"0\.bias") as caught:
        adapter.tensors(model)
    assert "backward" in caught.value.hint


def refusal(model):
    with pytest.raises(InputError) as caught:
        TorchAdapter().tensors(model)
    return caught.value


def test_memory_that_several_values_share_is_refused_or_excluded():
    m = nn.Module()
    m.w = nn.Parameter(torch.ones(2))
    m.register_buffer("row", torch.zeros(1).expand(3))
    assert "contiguous" in refusal(m).hint
    adapter = TorchAdapter(exclude="row")
    adapter.load_local(adapter.load(m, {"w": np.zeros(2, np.float32)}), adapter.local(m))
    assert m.w.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_eight_bits_travel_as_float32(name):
    m = nn.Module()
    m.w = nn.Parameter(torch.tensor([0.5, -1.5]).to(getattr(torch, name)), requires_grad=False)
    tensors = TorchAdapter().tensors(m)
    assert (tensors["w"].dtype, tensors["w"].tolist()) == (np.float32, [0.5, -1.5])
    TorchAdapter().load(m, {"w": np.array([0.25, 2], np.float32)})
    assert m.w.float().tolist() == [0.25, 2]


def test_a_module_without_values_is_refused():
    assert "to_empty" in refusal(nn.Linear(2, 2, device="meta")).hint
    assert "one batch" in refusal(nn.LazyLinear(2)).hint


def test_sparse_complex_and_quantized_tensors_are_refused():
    m = nn.Module()
    m.register_buffer("s", torch.eye(2).to_sparse())
    assert "to_dense" in refusal(m).hint
    m = nn.Module()
    m.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    assert "view_as_real" in refusal(m).hint


class OnGpu:
    """As much of a CUDA tensor as the check looks at; there is no GPU where tests run."""

    device = torch.device("cuda:0")
    layout = torch.strided
    is_quantized = False

    def is_complex(self):
        return False

    def is_inference(self):
        return False

    def numel(self):
        return 0


def test_a_module_on_a_gpu_is_refused_unless_asked_for():
    with pytest.raises(InputError, match="'cuda'") as caught:
        check_tensor("w", OnGpu(), copy_from_device=False)
    assert "model.cpu()" in caught.value.hint
    check_tensor("w", OnGpu(), copy_from_device=True)


def test_another_architecture_is_refused_by_the_first_tensor_that_differs():
    tensors = TorchAdapter().tensors(network())
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"3\.weight") as caught:
        TorchAdapter().load(other, tensors)
    assert caught.value.reason == Reason.WRONG_SHAPE
    with pytest.raises(InputError, match=r"0\.weight.*float64"):
        TorchAdapter().load(network().double(), tensors)


def test_something_else_is_refused():
    with pytest.raises(InputError, match=r"nn\.Module"):
        TorchAdapter().tensors({"w": 1.0})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_packed_layers_are_refused_unless_they_are_excluded():
    """Dynamic quantization packs weights in a tuple; only scales would be left to average."""
    model = torch.ao.nn.quantized.dynamic.Linear(3, 2)
    both = nn.Sequential(nn.Linear(2, 3), model)
    assert "quantize afterwards" in refusal(both).hint
    assert list(TorchAdapter(exclude="1.*").tensors(both)) == ["0.weight", "0.bias"]


class Remembers(nn.Linear):
    """A layer with extra state, a float tensor."""

    memory = 5.0

    def get_extra_state(self):
        return torch.tensor([self.memory])

    def set_extra_state(self, state):
        self.memory = float(state[0])


def test_extra_state_is_the_modules_own():
    layer, adapter = Remembers(2, 1), TorchAdapter()
    model = nn.Sequential(layer)
    assert list(adapter.tensors(model)) == ["0.weight", "0.bias"]
    assert not adapter.local(model)
    layer.memory = 7.0
    adapter.load_local(adapter.load(model, adapter.tensors(model)), adapter.local(model))
    assert layer.memory == 7


def test_tensors_of_inference_mode_are_refused_when_they_are_read():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert "outside of inference_mode" in refusal(model).hint
