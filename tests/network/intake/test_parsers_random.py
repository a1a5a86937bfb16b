"""Whatever is typed for inputs, dimensions and factories, and whatever keys, shapes and
configurations a file has, is understood or refused in one line.

`HWBENCH_EXAMPLES=10000` tries more of them.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError
from hwbench.network.intake import (
    checkpoints,
    factories,
    fitting,
    guessing,
    hugging_face,
    input_texts,
    neighbours,
)
from hwbench.network.intake.structures import Instance, TensorRecord
from tests.support.saved_models import TinyNet

EXAMPLES = int(os.environ.get("HWBENCH_EXAMPLES", "200"))
quick = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
unshrunk = settings(quick, phases=[Phase.explicit, Phase.generate])
"""For what is slow to make: an example that fails is shown as it was found."""
PIECES = st.sampled_from(
    ["1", "3", "224", "x", "=", ":", "int64", "float32", "[", "]", "(", ")", ",", ".", "ids", "seq",
     "-", "0", "e9", '"', "'", "timm", "create_model", "**", "*", "{", "}", "scalar", "lambda", "\\d",
     "9" * 20, " ", "\n", "\0", "\ud800", "é"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner)),
    max_leaves=6,
)


SHAPES = st.lists(st.integers(0, 9), max_size=5).map(tuple)
RECORDS = SHAPES.map(lambda shape: TensorRecord("float32", shape, "0", 0, (1,) * len(shape)))
KEYS = st.one_of(
    st.sampled_from(
        ["state_dict", "model", "module.", "ema", "optimizer", "conv.weight", "weight_orig", "weight_g",
         "embed.weight", "lstm.weight_ih_l0", "_parameters", "_buffers", "_modules", "fc.weight_mask"]
    ),
    TEXTS,
    st.integers(),
)  # fmt: skip


def instance(state):
    made = Instance()
    made.kind = "torch.nn.modules.conv.Conv2d"
    made.state = state
    return made


STRUCTURES = st.recursive(
    st.one_of(RECORDS, TEXTS, st.integers(), st.none()),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=6),
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=6).map(instance),
    ),
    max_leaves=12,
)
CONFIGS = st.dictionaries(
    st.one_of(
        st.sampled_from(
            ["model_type", "architectures", "architecture", "image_size", "num_channels", "vocab_size",
             "pretrained_cfg", "auto_map", "num_mel_bins", "quantization_config", "conv_stride",
             "model_args", "num_classes", "_class_name", "_diffusers_version"]
        ),
        TEXTS,
    ),
    st.one_of(
        st.sampled_from(["bert", "resnet18", ["BertModel"], 224, [224, 224], {"input_size": [3, 9, 9]}]),
        VALUES,
    ),
    max_size=6,
)  # fmt: skip


def check(parse, value):
    try:
        return parse(value)
    except HwbenchError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 700
        return None


@quick
@given(TEXTS)
def test_inputs_are_parsed_or_refused(text):
    request = check(input_texts.parse_input, text)
    if request is not None:
        assert input_texts.parse_input(str(request)).shape == request.shape


@quick
@given(VALUES)
def test_inputs_and_dimensions_of_any_type_are_parsed_or_refused(value):
    check(input_texts.parse_inputs, value)
    check(input_texts.parse_dims, value)


@quick
@given(TEXTS)
def test_factories_are_parsed_or_refused_and_nothing_is_run(text):
    factories.is_factory(text)
    check(factories.parse_factory, text)
    check(factories.parse_factory, f"timm:create_model({text})")


@quick
@given(st.lists(TEXTS, max_size=8), st.lists(TEXTS, max_size=8))
def test_names_are_matched_whatever_they_are(own, saved):
    fit = fitting.match_names(own, saved)
    assert set(fit.source) | set(fit.missing) == set(own)


@quick
@given(STRUCTURES)
def test_networks_are_found_in_whatever_a_file_holds(root):
    for candidate in checkpoints.find_candidates(root):
        assert all(isinstance(record, TensorRecord) for record in candidate.tensors.values())
        checkpoints.describe_weights(candidate.tensors)
        guessing.is_fixed(candidate.tensors)
        text = guessing.example_shape(candidate.tensors)
        check(input_texts.parse_input, text)
        checkpoints.find_classes(candidate.module)


@unshrunk
@given(st.data())
def test_weights_of_any_names_and_shapes_fit_or_are_refused(data):
    own = dict(TinyNet().state_dict())
    saved = {}
    prefix = data.draw(st.sampled_from(["", "module.", "_orig_mod.", "net.model.", "é."]))
    for name, tensor in own.items():
        change = data.draw(st.sampled_from(["keep"] * 8 + ["drop", "rename", "shape", "norm"]))
        if change == "rename":
            saved[prefix + data.draw(TEXTS)] = tensor
        elif change == "shape":
            saved[prefix + name] = torch.zeros(data.draw(SHAPES))
        elif change == "norm":
            endings = data.draw(
                st.sampled_from([("_orig", "_mask"), ("_g", "_v"), ("_orig", "_u")])
            )
            for ending in endings:
                saved[f"{prefix}{name}{ending}"] = torch.zeros(data.draw(SHAPES))
        elif change == "keep":
            saved[prefix + name] = tensor
    check(lambda weights: fitting.load_into(TinyNet(), weights, "m.pt", "TinyNet"), saved)


@quick
@given(st.one_of(CONFIGS, VALUES))
def test_configurations_are_read_or_refused(config):
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            (folder / "config.json").write_text(json.dumps(config))
        except UnicodeEncodeError:
            return
        (folder / "model.safetensors").touch()
        request = hugging_face.ReadRequest(name)
        found = check(lambda asked: hugging_face.inspect_folder(folder, asked), request)
        if found is not None and found.library == "timm":
            check(factories.parse_factory, hugging_face.write_timm_factory(found.config))


@quick
@given(TEXTS)
def test_a_location_is_inside_its_folder_or_refused(text):
    if neighbours.is_inside(text):
        assert ".." not in Path("/folder/" + text).parts
        assert Path("/folder", text).is_relative_to("/folder")
    assert neighbours.find_neighbour(Path("/nowhere"), text) is None
