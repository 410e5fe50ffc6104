"""What quantization promises: legal numbers, proved registers, spikes that stay, and clear refusals."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from networks import batch_norm, graph, node, population, spikes, weights
from snn2chip.errors import S2CError, UsageError
from snn2chip.ir.arithmetic import Arithmetic
from snn2chip.ir.graph import Edge, Graph
from snn2chip.ir.layers import Add, AvgPool, Concat, Conv, Conv2d, Flatten, Linear, Neuron, Scale
from snn2chip.ir.program import Program
from snn2chip.ir.target import load_target
from snn2chip.neurons.lif import LIF, IntegerLIF
from snn2chip.neurons.lnm import LNM
from snn2chip.quantize import quantize
from snn2chip.quantize.search import on_grid
from snn2chip.simulate import simulate

LOIHI2 = load_target("loihi2")
FIRES = LIF(1.0, 0.6, fire=">")


def conv_net(rng: np.random.Generator, model: LIF = FIRES, **options: Any) -> Graph:
    return graph(
        (2, 8, 8),
        node("conv1", Conv2d(weights(rng, 6, 2, 3, 3, gain=3), padding=(1, 1)), "x"),
        node("bn1", batch_norm(rng, 6), "conv1"),
        node("lif1", population(model), "bn1"),
        node("pool", AvgPool((2, 2), (2, 2), (0, 0)), "lif1"),
        node("conv2", Conv2d(weights(rng, 8, 6, 3, 3, gain=5), weights(rng, 8), padding=(1, 1)), "pool"),
        node("lif2", population(model), "conv2"),
        node("flat", Flatten(), "lif2"),
        node("fc", Linear(weights(rng, 5, 128), weights(rng, 5)), "flat"),
        **({"how": "mean"} | options),
    )


def recurrent_net(rng: np.random.Generator, **options: Any) -> Graph:
    model = LIF(1.0, 0.9, current_decay=0.6, **({"fire": ">", "reset": "hard"} | options))
    return graph(
        (12,),
        node("fc1", Linear(weights(rng, 20, 12), 0.1 * weights(rng, 20)), "x"),
        node("rec", Linear(weights(rng, 20, 20, gain=0.5)), Edge("lif1", delay=1, recurrent=True)),
        node("lif1", population(model), "fc1", "rec"),
        node("fc2", Linear(weights(rng, 4, 20)), "lif1"),
        node("lif2", population(model), "fc2"),
        time_steps=20,
    )


MODELS = {
    "hard": FIRES,
    "soft": dataclasses.replace(FIRES, reset="soft"),
    "spikingjelly": LIF(1.0, 2.0, "tau"),
    "snntorch": LIF(1.0, 0.8, fire=">", reset="soft", reset_timing="next"),
    "if": LIF(1.0, 1.0),
    "per channel": dataclasses.replace(FIRES, v_threshold=np.linspace(0.8, 1.2, 6).reshape(6, 1, 1)),
    "rests and resets elsewhere": LIF(1.0, 2.0, "tau", v_rest=0.2, v_reset=0.2, v_start=0.2),
}


def kept_rules(program: Program, bits: int) -> None:
    """Every integer is one the chip can hold."""
    for n in program:
        if isinstance(n.layer, Linear | Conv) and n.placement == "chip":
            form = program.formats[f"{n.name}.weight"]
            mantissa = n.layer.weight >> form.exponent
            np.testing.assert_array_equal(mantissa << form.exponent, n.layer.weight)
            assert (mantissa % LOIHI2.weights.step(bits) == 0).all()
            assert mantissa.min() >= -256
            assert mantissa.max() <= 254
            assert len(np.unique(mantissa)) <= 2**bits
        if isinstance(n.layer, Neuron):
            model = n.layer.model
            if model.v_threshold is not None:
                assert 1 <= model.v_threshold.min() <= model.v_threshold.max() <= 131071
            assert np.abs(model.bias).max(initial=0) <= 4095
            assert 0 <= model.bias_exp <= 7


@pytest.mark.parametrize("coding", ["steps", "direct"])
@pytest.mark.parametrize("name", MODELS)
def test_eight_bits_keep_the_spikes(name: str, coding: Any) -> None:
    rng = np.random.default_rng(1)
    model = MODELS[name]
    network = conv_net(rng, FIRES if name == "per channel" else model, coding=coding)
    if name == "per channel":
        first = dataclasses.replace(network["lif1"], layer=Neuron(model))
        network = network.with_nodes([first if n.name == "lif1" else n for n in network])
    x = spikes(rng, 24, 5, 2, 8, 8) if coding == "steps" else rng.uniform(0, 1, (24, 2, 8, 8)).astype(np.float32)
    program = quantize(network, "loihi2", x)
    kept_rules(program, 8)
    a, b = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    for layer in ("lif1", "lif2"):
        assert 0.02 < a[layer].spikes.mean() < 0.98
        assert (a[layer].spikes != b[layer].spikes).mean() < 0.05
    assert np.corrcoef(a.outputs.ravel(), b.outputs.ravel())[0, 1] > 0.98


def test_recurrence_shares_one_scale_and_keeps_powers_of_two_apart() -> None:
    rng = np.random.default_rng(2)
    network, x = recurrent_net(rng), spikes(rng, 32, 20, 12)
    program = quantize(network, "loihi2", x)
    kept_rules(program, 8)
    units = {s: program.formats[f"{s}.weight"].scale for s in ("fc1", "rec")}
    assert units["fc1"] == units["rec"]
    a, b = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    assert a["lif1"].spikes.mean() > 0.02
    assert (a["lif1"].spikes != b["lif1"].spikes).mean() < 0.03
    # The bias entered the current when the network was trained, and still does.
    assert program["lif1"].layer.model.bias_u is not None


def test_layers_that_feed_each_other_and_themselves_late() -> None:
    rng = np.random.default_rng(21)
    network = graph(
        (12,),
        node("fc1", Linear(weights(rng, 20, 12, gain=1.5)), "x"),
        node("fb", Linear(weights(rng, 20, 8, gain=0.7)), Edge("lif2", 1, recurrent=True)),
        node("lif1", population(FIRES), "fc1", Edge("fb", 1)),
        node("fc2", Linear(weights(rng, 8, 20, gain=1.5)), "lif1"),
        node("rec", Linear(weights(rng, 8, 8, gain=0.5)), Edge("lif2", 2, recurrent=True)),
        node("lif2", population(FIRES), "fc2", "rec"),
        time_steps=20,
    )
    x = spikes(rng, 32, 20, 12)
    program = quantize(network, "loihi2", x)
    kept_rules(program, 8)
    assert program["fb"].inputs == (Edge("lif2", 2, recurrent=True),), "both delays in front of the synapse"
    a, b = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    for layer in ("lif1", "lif2"):
        assert 0.05 < a[layer].spikes.mean() < 0.95
        assert (a[layer].spikes != b[layer].spikes).mean() < 0.05


def test_what_no_synapse_carries_late_is_refused() -> None:
    rng = np.random.default_rng(22)
    x = spikes(rng, 4, 5, 9)
    late_bias = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9), weights(rng, 6)), "x"),
        node("lif", population(FIRES), Edge("fc", 1)),
    )
    with pytest.raises(S2CError, match="the bias of this layer reaches lif from step 1 on"):
        quantize(late_bias, "loihi2", x)
    membrane = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9)), "x"),
        node("rec", Linear(weights(rng, 6, 6)), Edge("lif", 1, recurrent=True, port="v")),
        node("lif", population(FIRES), "fc", "rec"),
    )
    with pytest.raises(S2CError, match=r"carries a membrane, lif\.v\[t-1\], to a population"):
        quantize(membrane, "loihi2", x)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_narrow_weights_stay_on_their_grid(bits: int) -> None:
    rng = np.random.default_rng(3)
    x = spikes(rng, 16, 5, 2, 8, 8)
    kept_rules(quantize(conv_net(rng), "loihi2", x, weight_bits=bits), bits)


def test_wider_weights_lose_less() -> None:
    rng = np.random.default_rng(4)
    network, x = conv_net(rng), spikes(rng, 32, 5, 2, 8, 8)
    reference = simulate(network, x).outputs
    lost = [
        float(((simulate(quantize(network, "loihi2", x, weight_bits=b), x).outputs - reference) ** 2).mean())
        for b in (2, 4, 8)
    ]
    assert lost[0] > lost[1] > lost[2]


@settings(max_examples=examples(300))
@given(
    seed=st.integers(0, 10**6),
    decays=st.tuples(*[st.sampled_from([0, 1, 700, 2048, 4000, 4096])] * 2),
    bias=st.integers(-4095, 4095),
    bias_u=st.sampled_from([None, -900, 700]),
    reset=st.sampled_from(["hard", "soft", "none"]),
    timing=st.sampled_from(["same", "gate", "next"]),
    rounding=st.sampled_from(["zero", "floor"]),
    starts=st.sampled_from([(None, None), (-400, 6000), (2000, -300), (9000, 4000)]),
)
def test_no_input_exceeds_the_proved_bounds(seed, decays, bias, bias_u, reset, timing, rounding, starts) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    theta = rng.integers(20, 90, 8)
    neuron = IntegerLIF(theta, *decays, bias, 2, bias_u, ">", reset, timing, *starts)
    wide = Arithmetic(current_bits=60, voltage_bits=60, decay_rounding=rounding)
    proved = neuron.bounds((-700, 900), wide, 12)
    # The worst inputs first, swings between the extremes, then random ones.
    swings = np.where(np.arange(12) % np.arange(2, 8)[:, None] == 0, 900, -700)
    sums = np.concatenate([np.full((1, 12), 900), np.full((1, 12), -700), swings, rng.integers(-700, 901, (24, 12))])
    state = neuron.start((32, 8))
    for t in range(12):
        state, _ = neuron.step(state, np.repeat(sums[:, t : t + 1], 8, axis=1), wide)
        assert np.abs(state["u"]).max() <= proved.u
        assert np.abs(state["v"]).max() <= proved.v


def test_what_is_proved_never_overflows_and_what_is_not_is_said() -> None:
    rng = np.random.default_rng(5)
    x = spikes(rng, 16, 5, 2, 8, 8)
    program = quantize(conv_net(rng), "loihi2", x)
    worst = np.ones((1, 5, 2, 8, 8))
    found = simulate(program, worst, record=("u", "v"))
    for row in program.quantization:
        over = any(row.worst_case[name] > row.register[name] for name in row.register)
        assert row.proved != over
        assert row.proved or any("not proved" in remark for remark in row.remarks)
        if row.proved:
            assert np.abs(found[row.name].v).max() <= row.worst_case["v"]


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(0, 7))
def test_the_grid_rounds_to_the_nearest_legal_weight(seed: int, bits: int, exponent: int) -> None:
    values = np.random.default_rng(seed).uniform(-300, 300, 50) * 2**exponent
    step = LOIHI2.weights.step(bits)
    legal = np.arange(-256, 255, step) * 2**exponent
    found = on_grid(values, exponent, LOIHI2.weights, bits)
    assert set(found) <= set(legal)
    nearest = np.abs(values[:, None] - legal[None]).min(axis=1)
    np.testing.assert_allclose(np.abs(values - found), nearest)


def test_the_neurons_numbers_by_hand() -> None:
    # One unit is 1/20: threshold 20 units, a bias of 0.05 is one unit, that is 64 of the membrane's.
    model = LIF(1.0, 0.75, fire=">", v_reset=-0.5, v_start=0.25)
    neuron = model.quantized(np.array([0.05, -0.1]), 1 / 20, LOIHI2.limits, LOIHI2.arithmetic)
    assert neuron.v_threshold == 20
    assert neuron.decay_v == 1024
    assert neuron.decay_u == 4096
    assert (neuron.bias << neuron.bias_exp).tolist() == [64, -128]
    assert neuron.v_reset == -640
    assert neuron.v_start == 320
    # SpikingJelly's decay_input divides the input by tau, so a unit of input is worth half a unit of membrane.
    halved = LIF(1.0, 2.0, "tau").quantized(np.zeros(1), 1 / 20, LOIHI2.limits, LOIHI2.arithmetic)
    assert halved.v_threshold == 40


def test_a_fixed_core_refuses_what_it_cannot_do_unless_it_is_named() -> None:
    rng = np.random.default_rng(6)
    network, x = conv_net(rng, MODELS["spikingjelly"]), spikes(rng, 16, 5, 2, 8, 8)
    with pytest.raises(S2CError, match="fixed neuron cannot do") as caught:
        quantize(network, "loihi1", x)
    assert "lif1" in caught.value.where
    assert "--approximate fire_test" in caught.value.fix
    program = quantize(network, "loihi1", x, approximate=["fire_test"])
    assert all(n.layer.model.native for n in program.neurons)
    assert len(program.notes) == 2
    assert "v ≥ θ" in program.notes[0]
    assert quantize(conv_net(rng), "loihi1", x).notes == ()
    soft = conv_net(rng, MODELS["snntorch"])
    with pytest.raises(S2CError, match="fixed neuron") as caught:
        quantize(soft, "loihi1", x, approximate=["soft_reset"])
    assert "--approximate reset_timing" in caught.value.fix


def test_a_bias_in_the_current_can_move_to_the_membrane_by_name() -> None:
    rng = np.random.default_rng(7)
    network, x = recurrent_net(rng), spikes(rng, 16, 20, 12)
    program = quantize(network, "loihi1", x, approximate=["current_bias"])
    model = program["lif1"].layer.model
    assert model.bias_u is None
    exact = quantize(network, "loihi2", x)["lif1"].layer.model
    # b / decay, to the precision of the mantissa.
    wanted = exact.bias_u * 4096 / exact.decay_u
    unit = program.formats["lif1.u"].scale / quantize(network, "loihi2", x).formats["lif1.u"].scale
    np.testing.assert_allclose(model.bias * 2.0**model.bias_exp * unit, wanted, atol=np.abs(wanted).max() * 0.01)


def test_the_host_computes_a_direct_coded_layer_or_the_chip_does() -> None:
    rng = np.random.default_rng(8)
    network = conv_net(rng, coding="direct")
    x = rng.uniform(-1, 1, (24, 2, 8, 8)).astype(np.float32)
    a = simulate(network, x, record="spikes")
    for encoder, placement in (("host", "host"), ("chip", "chip")):
        program = quantize(network, "loihi2", x, encoder=encoder)  # type: ignore[arg-type]
        assert program["conv1"].placement == placement
        b = simulate(program, x, record="spikes")
        assert (a["lif1"].spikes != b["lif1"].spikes).mean() < 0.02
        counts = b.counts["conv1"]
        assert counts.macs.any() == (placement == "host")
        assert counts.synops.any() == (placement == "chip")
    # The host multiplies once per sample, not once per step.
    host = simulate(quantize(network, "loihi2", x), x).counts["conv1"].macs
    assert (host[:, 0] > 0).all()
    assert not host[:, 1:].any()
    with pytest.raises(S2CError, match="takes binary spikes"):
        quantize(network, "loihi1", x, encoder="chip")


def test_integrators_keep_their_membrane() -> None:
    rng = np.random.default_rng(9)
    network = graph(
        (12,),
        node("fc1", Linear(weights(rng, 20, 12, gain=2)), "x"),
        node("lif", population(FIRES), "fc1"),
        node("fc2", Linear(weights(rng, 4, 20)), "lif"),
        node("li", population(LIF(np.inf, 0.9)), "fc2"),
        how="last",
    )
    x = spikes(rng, 24, 5, 12)
    program = quantize(network, "loihi2", x)
    a, b = simulate(network, x), simulate(program, x)
    # A spike that differs moves a membrane by a weight; all others agree to the weights' rounding.
    assert np.median(np.abs(a.outputs - b.outputs)) < 0.01 * np.abs(a.outputs).mean()
    assert not b.counts["li"].spikes.any()


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("synapse", [True, False])
def test_the_membrane_of_an_integrator_cannot_feed_a_population(delay: int, synapse: bool) -> None:
    rng = np.random.default_rng(9)
    late = Edge("syn", delay=delay)
    network = graph(
        (6,),
        node("fc", Linear(weights(rng, 5, 6)), "x"),
        node("syn", population(LIF(np.inf, 0.9)), "fc"),
        *([node("fc2", Linear(weights(rng, 5, 5)), late)] if synapse else []),
        node("lif", population(FIRES), "fc2" if synapse else late),
    )
    with pytest.raises(S2CError, match="carries a membrane, syn"):
        quantize(network, "loihi2", spikes(rng, 4, 5, 6))


def test_outputs_come_back_in_the_units_of_the_network() -> None:
    rng = np.random.default_rng(10)
    x = spikes(rng, 24, 5, 2, 8, 8)
    for how in ("mean", "sum", "last", "max"):
        network = conv_net(rng, how=how)
        a, b = simulate(network, x).outputs, simulate(quantize(network, "loihi2", x), x)
        # Spikes that differ scatter the outputs; a wrong unit or a factor of T would change their slope.
        slope = float((a * b.outputs).sum() / (a * a).sum())
        assert slope == pytest.approx(1, abs=0.03), how
        np.testing.assert_array_equal(b.outputs, b.outputs_int * b.network.output_scale)


def test_judging_scales_in_the_whole_network_loses_less_and_can_be_left_out() -> None:
    rng = np.random.default_rng(11)
    network, x = conv_net(rng), spikes(rng, 16, 5, 2, 8, 8)
    expected = simulate(network, x).outputs
    judged, alone = (quantize(network, "loihi2", x, weight_bits=3, refine=refine) for refine in (True, False))
    lost = [float(((simulate(program, x).outputs - expected) ** 2).sum()) for program in (judged, alone)]
    assert 0 < lost[0] < lost[1]


def test_the_same_calibration_gives_the_same_program() -> None:
    rng = np.random.default_rng(11)
    network, x = conv_net(rng), spikes(rng, 16, 5, 2, 8, 8)
    assert quantize(network, "loihi2", x) == quantize(network, "loihi2", x)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"calibration": None}, "needs calibration data"),
        ({"target": "loihi3"}, "no target 'loihi3'"),
        ({"weight_bits": 9}, "9-bit weights"),
        ({"encoder": "cloud"}, "no encoder 'cloud'"),
        ({"approximate": ["everything"]}, "nothing to approximate is called everything"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, Any], what: str) -> None:
    rng = np.random.default_rng(12)
    given_options = {"target": "loihi2", "calibration": spikes(rng, 4, 5, 2, 8, 8)} | options
    with pytest.raises(UsageError, match=what):
        quantize(conv_net(rng), **given_options)


def test_networks_without_an_integer_form_are_refused_by_name() -> None:
    rng = np.random.default_rng(13)
    x = spikes(rng, 4, 5, 9)
    two = graph(
        (9,),
        node("fc1", Linear(weights(rng, 6, 9)), "x"),
        node("fc2", Linear(weights(rng, 6, 6)), "fc1"),
        node("lif", population(FIRES), "fc2"),
    )
    with pytest.raises(S2CError, match="two synaptic layers in a row, fc1 and fc2"):
        quantize(two, "loihi2", x, passes="prune")
    assert "fc1" not in quantize(two, "loihi2", x).nodes
    padded = graph(
        (2, 6, 6),
        node("one", Conv2d(weights(rng, 3, 2, 3, 3)), "x"),
        node("two", Conv2d(weights(rng, 3, 3, 3, 3), padding=(1, 1)), "one"),
        node("lif", population(FIRES), "two"),
    )
    with pytest.raises(S2CError, match=r"(?s)one and two.*cannot become one: two pads the border with zeros"):
        quantize(padded, "loihi2", spikes(rng, 4, 5, 2, 6, 6))
    scaled = graph((9,), node("scale", Scale(np.linspace(0.3, 1, 9)), "x"), node("lif", population(FIRES), "scale"))
    with pytest.raises(S2CError, match="Scale layer has no integer form"):
        quantize(scaled, "loihi2", x)
    shared = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9, gain=2)), "x"),
        node("lif1", population(FIRES), "fc"),
        node("lif2", population(FIRES), "fc"),
        node("pair", Concat(), "fc", "fc"),
        node("lif3", population(FIRES), "pair"),
    )
    with pytest.raises(S2CError, match="the sums of fc are read by a Concat layer"):
        quantize(shared, "loihi2", x)


def test_one_factor_for_all_is_what_a_unit_is_worth() -> None:
    rng = np.random.default_rng(18)
    x = spikes(rng, 20, 5, 9)
    network = graph(
        (9,),
        node("scale", Scale(np.float32(0.3)), "x"),
        node("late", Scale(np.float32(0.5)), Edge("scale", delay=1)),
        node("lif", population(LIF(0.5, 0.9)), "scale", "late"),
        node("tenth", Scale(np.float32(0.1)), "lif"),
    )
    program = quantize(network, "loihi2", x)
    real, fixed = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    assert not any(isinstance(n.layer, Scale) for n in program)
    assert 0.1 < real["lif"].spikes.mean() < 0.9
    np.testing.assert_array_equal(real["lif"].spikes, fixed["lif"].spikes)
    np.testing.assert_allclose(real.outputs, fixed.outputs, rtol=1e-6)


def test_sums_that_several_populations_read_get_synapses_of_their_own() -> None:
    """A membrane shortcut: each branch begins with neurons on the sum of all branches before it."""
    rng = np.random.default_rng(20)
    network = graph(
        (9,),
        node("stem", Linear(0.25 * rng.integers(-8, 12, (9, 9)).astype(np.float32)), "x"),
        node("lif1", population(FIRES), "stem"),
        node("fc1", Linear(0.25 * rng.integers(-8, 12, (9, 9)).astype(np.float32)), "lif1"),
        node("sum1", Add(), "fc1", "stem"),
        node("lif2", population(FIRES), "sum1"),
        node("fc2", Linear(0.25 * rng.integers(-8, 12, (9, 9)).astype(np.float32)), "lif2"),
        node("sum2", Add(), Edge("sum1", delay=1), "fc2"),
        node("lif3", population(FIRES), "sum2"),
        node("lif4", population(LIF(2.0, 0.8)), Edge("sum2", delay=1)),
        node("both", Add(), "lif3", "lif4"),
    )
    x = spikes(rng, 40, 5, 9)
    program = quantize(network, "loihi2", x[:20])
    assert not [n.name for n in program if isinstance(n.layer, Add) and n.name != "both"]
    assert any(note.startswith("stem: stored 4 times") for note in program.notes)
    assert any(note.startswith("fc2: stored 2 times") for note in program.notes)
    real, fixed = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    for name in ("lif1", "lif2", "lif3", "lif4"):
        assert 0.05 < real[name].spikes.mean() < 0.95
        assert np.mean(real[name].spikes != fixed[name].spikes) < 0.02, name


def test_weights_that_are_multiples_of_one_number_are_not_rounded() -> None:
    rng = np.random.default_rng(16)
    model = LIF(4.0, 0.5, fire=">")
    network = graph(
        (9,),
        node("fc1", Linear(0.25 * rng.integers(-20, 30, (12, 9)).astype(np.float32)), "x"),
        node("lif1", population(model), "fc1"),
        node("fc2", Linear(0.25 * rng.integers(-20, 30, (12, 12)).astype(np.float32)), "lif1"),
        node("lif2", population(LIF(8.0, 1.0, fire=">=", reset="soft")), "fc2"),
    )
    x = spikes(rng, 40, 5, 9)
    program = quantize(network, "loihi2", x[:16])
    for name in ("fc1", "fc2"):
        scale = program.formats[f"{name}.weight"].scale
        np.testing.assert_allclose(program[name].layer.weight * scale, network[name].layer.weight, rtol=1e-12)
    a, b = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    for name in ("lif1", "lif2"):
        assert a[name].spikes.any()
        np.testing.assert_array_equal(a[name].spikes, b[name].spikes)


def test_a_threshold_that_cannot_fit_is_refused() -> None:
    rng = np.random.default_rng(14)
    network = graph(
        (9,),
        node("fc", Linear(weights(rng, 6, 9)), "x"),
        node("lif", population(LIF(np.array([1e-9, 1, 1, 1, 1, 1e9]), 0.5)), "fc"),
    )
    with pytest.raises(S2CError, match="do not fit the chip's registers together") as caught:
        quantize(network, "loihi2", spikes(rng, 4, 5, 9))
    assert "lif" in caught.value.where


def test_a_polynomial_of_an_unbounded_membrane_is_refused_by_name() -> None:
    rng = np.random.default_rng(18)
    x = spikes(rng, 8, 5, 9)
    layer = Linear(weights(rng, 6, 9, gain=2), weights(rng, 6))
    for bound in (None, 1.0):
        model = LNM(1.0, (0.0, 0.6, -0.3, 0.5), "absorbed", bound)
        network = graph((9,), node("fc", layer, "x"), node("lnm", Neuron(model), "fc"))
        if bound is None:
            with pytest.raises(S2CError, match="do not fit the chip's registers together") as caught:
                quantize(network, "loihi2", x)
            assert "0.5·c^3" in caught.value.why
            assert "bound=1.0" in caught.value.fix
        else:
            quantize(network, "loihi2", x)


def test_a_membrane_far_below_its_threshold_gets_coarser_units() -> None:
    rng = np.random.default_rng(17)
    w = np.abs(weights(rng, 4, 200, gain=0.2))
    w[:, :60] *= -1.5
    network = graph(
        (200,),
        node("fc", Linear(w), "x"),
        node("lif", population(LIF(1.0, 1.0, fire=">")), "fc"),
        time_steps=60,
    )
    x = np.zeros((8, 60, 200), np.float32)
    x[:4, :, :60] = spikes(rng, 4, 60, 60, rate=0.9)
    x[4:] = spikes(rng, 4, 60, 200, rate=0.1)
    program = quantize(network, "loihi2", x)
    form = program.formats["fc.weight"]
    mantissas = np.abs(program["fc"].layer.weight >> form.exponent)
    assert mantissas.max() <= 128
    a, b = simulate(network, x, record=("spikes", "v")), simulate(program, x, record=("spikes", "v"))
    assert a["lif"].v.min() < -50
    assert np.abs(b["lif"].v).max() < 2**23 - 1
    assert (a["lif"].spikes != b["lif"].spikes).mean() < 0.01
    assert a["lif"].spikes.any()


def test_only_the_own_grid_of_two_synapses_fits_the_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("snn2chip.quantize.search")
    own_grid = module._on_own_grid

    def rounded(problem: Any, exponent: int) -> Any:
        found = own_grid(problem, exponent)
        return None if found is None else dataclasses.replace(found, differing=0.01)

    monkeypatch.setattr(module, "_on_own_grid", rounded)
    monkeypatch.setattr(module, "_candidate", lambda problem, exponent, clips: None)
    rng = np.random.default_rng(18)
    network = graph(
        (9,),
        node("fc1", Linear(0.25 * rng.integers(-9, 12, (5, 9)).astype(np.float32)), "x"),
        node("fc2", Linear(0.25 * rng.integers(-9, 12, (5, 9)).astype(np.float32)), "x"),
        node("lif", population(LIF(4.0, 0.5, fire=">")), "fc1", "fc2"),
    )
    program = quantize(network, "loihi2", spikes(rng, 16, 5, 9))
    for name in ("fc1", "fc2"):
        scale = program.formats[f"{name}.weight"].scale
        np.testing.assert_allclose(program[name].layer.weight * scale, network[name].layer.weight, rtol=1e-12)


def test_spikes_straight_into_a_population_pass_a_synapse_of_one() -> None:
    rng = np.random.default_rng(15)
    network = graph((3, 4, 4), node("lif", population(LIF(1.5, 0.9, fire=">")), "x"))
    x = spikes(rng, 8, 5, 3, 4, 4)
    program = quantize(network, "loihi2", x)
    assert program["lif.from.x"].layer.groups == 3
    a, b = simulate(network, x, record="spikes"), simulate(program, x, record="spikes")
    np.testing.assert_array_equal(a["lif"].spikes, b["lif"].spikes)
