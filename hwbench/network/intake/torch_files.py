"""Reading files of torch, and exporting them to ONNX.

Even after the checks of `archives` a file reaches native readers that were not written for hostile
input, and TorchScript may loop for ever. So this is done in the workers of `reader_child`. What can
be told of a file without torch is told first, in `plan_file`: torch takes seconds to load.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, SchemaError, UnsafeModelError, UsageError, Value
from hwbench.network.intake import calling, checkpoints, fitting, guessing, operators, scripts
from hwbench.network.intake.archives import TRUST, ModelFile
from hwbench.network.intake.checkpoints import Candidate
from hwbench.network.intake.factories import call_factory
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.intake.rebuilding import is_known, rebuild_module
from hwbench.network.intake.structures import (
    Content,
    Instance,
    make_tensor,
    read_content,
    read_script_arguments,
)
from hwbench.network.intake.torch_onnx import (
    Exported,
    export_module,
    export_program,
    prepare_module,
    quiet,
    runs_on,
)
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """How a model is to be read.

    Attributes:
        name: The name of the model, for messages.
        inputs: The inputs as the user asked for them, by name or in order; they win over those in
            the file.
        batch: The leading dimension of every input, or None.
        dims: The sizes of dimensions that a model names, by name.
        arch: `module:factory` that builds the network for a file with weights alone.
        main: The scripts that classes of `__main__` stand in.
        trust_pickle: Whether pickles may run code.
        seed: The seed of random inputs and weights.
        folder: The folder that the user works in.
    """

    name: str
    inputs: tuple[InputRequest, ...] = ()
    batch: int | None = None
    dims: tuple[tuple[str, int], ...] = ()
    arch: str | None = None
    main: tuple[str, ...] = ()
    trust_pickle: bool = False
    seed: int = 0
    folder: str = ""

    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs without their values."""
        return tuple(request.spec for request in self.inputs)

    def folders(self) -> list[Path]:
        """The folders where scripts are looked for: the user's, and that of the file."""
        folder = Path(self.folder or ".")
        return [folder, (folder / self.name).parent]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with a file of torch.

    Attributes:
        file: The file.
        content: What it holds, where that is known without torch.
        candidates: The networks to choose from; the first is taken unless the weights of another
            fit the architecture better.
        is_module: Whether the first is a whole module that is made as it is.
    """

    file: ModelFile
    content: Content | None = None
    candidates: tuple[Candidate, ...] = ()
    is_module: bool = False


def plan_file(file: ModelFile, request: ReadRequest) -> Plan:
    """Find out, without torch, what a checked file holds and whether enough is known to run it.

    Args:
        file: The file, as `archives.inspect` gives it.
        request: How it is to be read.

    Raises:
        UsageError: Input shapes or the architecture are missing.
        UnsafeModelError: The file needs classes that are not torch's, and is not trusted.
        SchemaError: The file is damaged, or holds no network.
    """
    if file.kind == "script" and not (request.inputs or file.inputs):
        root = read_content(file, request.name).root
        names = read_script_arguments(file, getattr(root, "kind", ""))
        tensors = dict(checkpoints.name_tensors(root))
        raise guessing.missing_shape(request.name, tensors, names)
    if file.kind not in {"pickle", "safetensors"}:
        return Plan(file)
    try:
        content = read_content(file, request.name)
    except SchemaError:
        if request.trust_pickle:  # a pickle may hold anything that only running it would show
            return Plan(file)
        raise
    candidates = checkpoints.find_candidates(content.root)
    if not candidates:
        if request.trust_pickle:
            return Plan(file)
        kind = type(content.root).__name__.lstrip("_").lower()
        if isinstance(content.root, Instance):
            kind = content.root.kind[:80]
        raise SchemaError(
            f"{request.name} holds a {kind}; expected a module or a state_dict, alone or in a"
            " checkpoint"
        )
    module = _choose_module(candidates, request)
    if module is not None:
        return Plan(file, content, (module,), is_module=True)
    _check_architecture(content, candidates, request)
    return Plan(file, content, tuple(candidates))


def _choose_module(candidates: Sequence[Candidate], request: ReadRequest) -> Candidate | None:
    """Choose the module of a file that can be made; None if only its weights can be used.

    Raises:
        UnsafeModelError: There are modules, but of classes that are not torch's.
        UsageError: They are of a script that is not named.
    """
    modules = [candidate for candidate in candidates if candidate.module is not None]
    for candidate in modules:
        foreign = _find_foreign_classes(candidate)
        unnamed = [kind for kind in foreign if kind.startswith("__main__.") and not request.main]
        if not foreign or (request.trust_pickle and not unnamed):
            return candidate
        if request.main and all(kind.startswith("__main__.") for kind in foreign):
            return candidate
    if modules and request.arch is None:
        raise _explain_foreign(modules[0], request)
    return None


def _find_foreign_classes(candidate: Candidate) -> list[str]:
    """List the classes of a module that are not torch's and that have to be made."""
    kinds = checkpoints.find_classes(candidate.module)
    return sorted(kind for kind in kinds if not is_known(kind))


def _explain_foreign(candidate: Candidate, request: ReadRequest) -> UnsafeModelError:
    """Make the error for a module whose classes are not torch's."""
    foreign = _find_foreign_classes(candidate)
    own = [kind.removeprefix("__main__.") for kind in foreign if kind.startswith("__main__.")]
    others = [kind for kind in foreign if not kind.startswith("__main__.")]
    listing = ", ".join(kind[:80] for kind in foreign[:4])
    if len(foreign) > 4:
        listing += f" and {len(foreign) - 4} more"
    for kind in foreign:
        if kind.startswith(("torch.ao.", "torchao.")):
            return UnsafeModelError(
                f"{request.name} holds a network quantised by torch ({kind[:80]}), which has no way"
                " to ONNX; give the network before that, to be quantised here",
                Argument("precision", "int8"),
            )
    shape: dict[str, Value] = {}
    if not request.inputs and not guessing.is_fixed(candidate.tensors):
        shape = {"inputs": guessing.example_shape(candidate.tensors)}
    trusted: dict[str, Value] = {}
    if others and not request.trust_pickle:
        trusted["trust_pickle"] = True
    if own:
        script = scripts.find_script_with(own, request.folders())
        where = "stand in the script that saved it"
        if script is not None:
            where = f"stand in {_relative(script, request)}"
        return UnsafeModelError(
            f"{request.name} is a whole module of classes that are not torch's ({listing}); those"
            f" of __main__ {where}",
            Argument(
                "main",
                None if script is None else _relative(script, request),
                purpose="name that script",
                also={**trusted, **shape},
            ),
        )
    return UnsafeModelError(
        f"{request.name} is a whole module of classes that are not torch's ({listing}), and to make"
        " them its pickle must run",
        replace(TRUST, purpose="only if you trust its author", also=shape),
    )


def _relative(path: Path, request: ReadRequest) -> str:
    folder = Path(request.folder or ".").resolve()
    resolved = path.resolve()
    return str(resolved.relative_to(folder)) if resolved.is_relative_to(folder) else str(resolved)


def _check_architecture(
    content: Content, candidates: Sequence[Candidate], request: ReadRequest
) -> None:
    """Ask for what builds the network of weights, and for its input, before anything is imported.

    Raises:
        UsageError: One of them is missing, and cannot be told from the weights.
    """
    tensors = candidates[0].tensors
    first = checkpoints.find_first_layer(tensors)
    is_certain = first is not None and guessing.is_linear(*first)
    if request.arch is None:
        also = {}
        if not (request.inputs or is_certain):
            also = {"inputs": guessing.example_shape(tensors)}
        raise UsageError(
            f"{request.name} holds weights alone ({checkpoints.describe_weights(tensors)})",
            Argument(
                "arch",
                _suggest_architecture(content, candidates[0], request),
                purpose="name the code that builds the network, which is then imported and called",
                also=also,
            ),
        )
    if not (request.inputs or is_certain):
        raise guessing.missing_shape(request.name, tensors)


def _suggest_architecture(
    content: Content, candidate: Candidate, request: ReadRequest
) -> str | None:
    """Suggest what builds the network: a class beside the file, or what a checkpoint names."""
    parts = checkpoints.first_parts(candidate.tensors)
    suggested = scripts.find_factory_for(parts, request.folders())
    if suggested:
        return suggested
    named = content.root.get("arch") if isinstance(content.root, Mapping) else None
    if isinstance(named, str) and named.isidentifier() and len(named) < 40:
        return f"torchvision.models:{named}"
    return None


def export_file(plan: Plan, request: ReadRequest) -> Exported:
    """Let torch read a file, and export it. Only for a process that may be lost.

    Args:
        plan: What is to be done, as `plan_file` says.
        request: How it is to be read.

    Raises:
        UsageError: Input shapes or the architecture are missing or do not fit.
        SchemaError: torch cannot read the file.
        UnsafeModelError: torch's weights-only reader refuses the file.
        WorkloadError: The network cannot be run or exported.
        MemoryError: It needs more memory than this process may take.
    """
    if not request.trust_pickle:
        # Parts of a `.pt2` are pickles too, which torch.export.load would run without this.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        return _convert_payload(plan, request)
    except MemoryError:
        raise
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        raise SchemaError(
            f"{request.name}: torch cannot read it ({reason(error)}); save the model anew"
        ) from error


def rehearse(file: ModelFile, name: str) -> None:
    """Let torch read a checked file, and throw away what comes of it.

    Args:
        file: The file, as `archives.inspect` gives it.
        name: Its name, for messages.

    Raises:
        SchemaError: torch cannot read the file.
        MemoryError: It needs more memory than this process may take.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        if file.kind == "program":
            _load_program(file.payload)
        elif file.kind in {"pickle", "safetensors"}:
            content = read_content(file, name)
            for candidate in checkpoints.find_candidates(content.root):
                for record in candidate.tensors.values():
                    make_tensor(record, content)
    except MemoryError:
        raise
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        raise SchemaError(
            f"{name}: torch cannot read it ({reason(error)}); save the model anew"
        ) from error


def _convert_payload(plan: Plan, request: ReadRequest) -> Exported:
    file = plan.file
    if file.kind == "program":
        program = _load_program(file.payload)
        operators.check_program(program, request.name)
        return export_program(
            program,
            request.specs(),
            request.batch,
            request.name,
            seed=request.seed,
            sizes=dict(request.dims),
        )
    if file.kind == "script":
        script = _load_script(file.payload, request.name)
        shapes = choose_input_shapes(request, calling.name_inputs(script, file.inputs))
        return export_module(script, shapes, request.name, request.seed)
    module, findings = read_module(plan, request)
    exported = export_read_module(module, request)
    return replace(exported, findings=(*findings, *exported.findings))


def export_read_module(module: nn.Module, request: ReadRequest) -> Exported:
    """Export a module at the input that was asked for, or at the only one that it takes.

    Args:
        module: The module.
        request: What was asked for.

    Raises:
        UsageError: There is no shape, and several are possible.
        WorkloadError: The network cannot be run or exported.
    """
    if request.inputs:
        shapes = choose_input_shapes(request, ())
        return export_module(module, shapes, request.name, request.seed)
    own, _ = prepare_module(module, request.name)
    tensors = own.state_dict()
    guessed = guessing.guess_input(tensors, lambda entry: runs_on(own, (entry.spec,), request.name))
    if guessed is None:
        raise guessing.missing_shape(request.name, tensors)
    shapes = choose_input_shapes(replace(request, inputs=(guessed[0],)), ())
    exported = export_module(module, shapes, request.name, request.seed)
    return replace(exported, findings=(guessed[1], *exported.findings))


def _load_program(payload: bytes) -> Any:
    """Load an exported program; torch has to be told of the operators of quantised ones."""
    import torch

    if b"quantized_decomposed" in payload:
        with quiet():
            import torch.ao.quantization.fx._decomposed
    return torch.export.load(io.BytesIO(payload))


def _load_script(payload: bytes, name: str) -> nn.Module:
    """Load TorchScript as `torch.jit.load` does, with its operators checked before one runs.

    Loading itself runs none: `archives` refuses the only methods that it would call.
    """
    import torch

    # torch.jit.load does the same, and keeps the compiled unit to itself.
    native: Any = torch._C  # noqa: SLF001
    unit = native.CompilationUnit()
    restores_shapes = False
    loaded = native.import_ir_module_from_buffer(
        unit, payload, torch.device("cpu"), {}, restores_shapes
    )
    operators.check_script(unit, name)
    module: nn.Module = torch.jit._recursive.wrap_cpp_module(loaded)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return module


def choose_input_shapes(
    request: ReadRequest, file_inputs: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """Choose the shapes to run at: the user's, else those that the model itself says.

    Args:
        request: What the user asked for; its batch replaces the leading dimension of every shape.
        file_inputs: The shapes that the model says; empty if it says none. Their element types hold
            for the user's shapes as well, unless these have a type of their own.

    Raises:
        UsageError: There are no shapes.
    """
    if not (request.inputs or file_inputs):
        raise guessing.missing_shape(request.name, {})
    shapes = list(file_inputs)
    if request.inputs:
        by_name = {spec.name: spec.dtype for spec in file_inputs if spec.name}
        in_order = [spec.dtype for spec in file_inputs] + ["float32"] * len(request.inputs)
        shapes = []
        for entry, dtype in zip(request.inputs, in_order, strict=False):
            known = by_name.get(entry.name, dtype)
            shapes.append(TensorSpec(entry.name, entry.shape, entry.dtype or known))
    if request.batch is not None:
        batched = []
        for spec in shapes:
            shape = (request.batch, *spec.shape[1:]) if spec.shape else ()
            batched.append(replace(spec, shape=shape))
        shapes = batched
    return tuple(shapes)


def read_module(plan: Plan, request: ReadRequest) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Make the network of a file: the module that it holds, or the architecture with its weights.

    Args:
        plan: What is to be done with the file.
        request: How it is to be read.

    Returns:
        The network, and what was chosen on the way to it.

    Raises:
        UsageError: The weights do not fit the architecture, or a script lacks a class.
        SchemaError: The file holds no network, or is damaged.
    """
    if plan.content is None:
        content = _run_pickle(plan.file.payload, request, {})
        return _expect_module(content, request.name), ()
    candidate = plan.candidates[0]
    if plan.is_module:
        return _make_module(plan, candidate, request), _describe_choice(plan, candidate, request)
    module = call_factory(str(request.arch))
    return module, load_weights(module, plan, request)


def _make_module(plan: Plan, candidate: Candidate, request: ReadRequest) -> nn.Module:
    """Make the module of a candidate, from a script's classes and torch's, or by running it."""
    foreign = _find_foreign_classes(candidate)
    own = [kind.removeprefix("__main__.") for kind in foreign if kind.startswith("__main__.")]
    classes: dict[str, Any] = {}
    for script in request.main:
        for name, value in scripts.load_names(Path(request.folder or ".") / script, own).items():
            classes.setdefault(f"__main__.{name}", value)
    missing = [f"__main__.{name}" for name in own if f"__main__.{name}" not in classes]
    if missing:
        raise UsageError(
            f"{request.name} needs {', '.join(missing[:4])}, which {_listing(request.main)} does"
            " not define; name the script that saved it"
        )
    if len(own) < len(foreign):
        content = _run_pickle(plan.file.payload, request, classes)
        return _expect_module(checkpoints.follow(content, candidate.path), request.name)
    if candidate.module is None or plan.content is None:
        raise SchemaError(f"{request.name} holds no module")
    return rebuild_module(candidate.module, plan.content, request.name, classes)


def _listing(names: Sequence[str]) -> str:
    return " or ".join(names)


def _expect_module(content: Any, name: str) -> nn.Module:
    import torch

    if isinstance(content, Mapping):
        for entry in content.values():
            if isinstance(entry, torch.nn.Module):
                return entry
    if not isinstance(content, torch.nn.Module):
        raise SchemaError(
            f"{name} holds a {type(content).__name__}; expected a module or a state_dict"
        )
    return content


def _run_pickle(payload: bytes, request: ReadRequest, classes: Mapping[str, Any]) -> Any:
    """Let torch run a trusted pickle, which finds classes of `__main__` among those given."""
    import torch

    class ScriptUnpickler(pickle.Unpickler):
        """Finds the classes of the script that saved the file."""

        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" in classes:
                return classes[f"{module}.{name}"]
            return super().find_class(module, name)

    class ScriptPickle:
        """What torch.load uses of the module pickle."""

        Unpickler = ScriptUnpickler
        UnpicklingError = pickle.UnpicklingError

        @staticmethod
        def load(file: Any, **options: Any) -> Any:
            return ScriptUnpickler(file, **options).load()

    folders = [str(folder.resolve()) for folder in request.folders()]
    added = [folder for folder in folders if folder not in sys.path]
    sys.path += added  # modules of the user's lie where the user works, or beside the file
    try:
        return torch.load(
            io.BytesIO(payload), map_location="cpu", weights_only=False, pickle_module=ScriptPickle
        )
    except (AttributeError, ImportError) as error:
        raise UsageError(
            f"{request.name} needs Python code that is not found here ({reason(error)}); go to the"
            " folder with that code, or install the package"
        ) from error
    finally:
        for folder in added:
            sys.path.remove(folder)


def _describe_choice(plan: Plan, candidate: Candidate, request: ReadRequest) -> tuple[Finding, ...]:
    """Say which network of a file was taken, if it holds several."""
    if plan.content is None or not candidate.path:
        return ()
    candidates = checkpoints.find_candidates(plan.content.root)
    others = [other.place for other in candidates if other.path != candidate.path]
    text = f"the network is {candidate.place} of {request.name}"
    if others:
        text += f"; left out: {', '.join(others[:3])}"
    return (Finding("network_chosen", text),)


def load_weights(module: nn.Module, plan: Plan, request: ReadRequest) -> tuple[Finding, ...]:
    """Put the weights of a file into a network, in place.

    Args:
        module: The network.
        plan: What the file holds.
        request: How it is to be read; its architecture names the network in messages.

    Returns:
        What was chosen, and how the weights were made to fit.

    Raises:
        UsageError: The weights do not fit.
        SchemaError: The file is damaged, or holds no weights.
    """
    if plan.content is None or not plan.candidates:
        raise SchemaError(f"{request.name} holds no weights")
    own = list(module.state_dict())
    candidate = plan.candidates[0]
    fewest = len(own) + 1
    for option in plan.candidates:
        missing = len(fitting.match_names(own, option.tensors).missing)
        if missing < fewest:
            candidate, fewest = option, missing
    weights = {}
    for name, record in candidate.tensors.items():
        weights[name] = make_tensor(record, plan.content)
    findings = _describe_choice(plan, candidate, request)
    arch = request.arch or type(module).__name__
    return (*findings, *fitting.load_into(module, weights, request.name, arch))
