"""A Flower client mod that encrypts updates and decrypts sums. The client's own code stays as it is.

::

    app = ClientApp(mods=[EncryptedUpdates("stroke.keystore")])

    @app.train()
    def train(msg, context):              # as without: msg.content["arrays"] is the global model in the clear,
        ...                               # and the reply has "arrays" and "metrics" with "num-examples"
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.adapters.base import floored, is_variance, missing_extra, same_layout
from client_sdk.coarse import Coarse
from client_sdk.flower.records import RECORD, SUMS, check_shared, read_record, update_record
from client_sdk.training.agreement import SIGNS, check_agreement, model_hash, signs_of
from he_agg.codecs import codec_for
from he_agg.errors import InputError, KeystoreError, ProtocolError, Reason
from he_agg.host.files import create_once, file_trouble
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import OnOverflow, dequantize, quantize
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part, parse_part
from keys import GroupKey

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
except ImportError as error:
    raise missing_extra("flwr", "flower") from error

__all__ = ["EncryptedUpdates"]

_MODEL = "he-agg-model"


class EncryptedUpdates:
    """The mod. Needs the plan of `training_plan`, made from the model's arrays.

    Arrays that the plan does not have (integer buffers, layers excluded by `training_plan`'s adapter) stay at the node.
    The global model is kept in the node's `context.state`. A node that is new, or lost its state, gets the initial
    weights and all sums that the server still keeps; if that is not enough, it says so and is not counted.

    Args:
        on_overflow: what entries beyond the clip bound get: an "error", or "clip".
    """

    def __init__(
        self, keystore: str | Path, passphrase: str | None = None, *, on_overflow: OnOverflow = "error"
    ) -> None:
        self._path, self._passphrase, self._on_overflow = Path(keystore), passphrase, on_overflow
        self._coarse = Coarse()

    @cached_property
    def _key(self) -> GroupKey:
        key = GroupKey.load(self._path, self._passphrase)
        check_shared(key.plan.public)
        return key

    @cached_property
    def _codec(self) -> Any:
        return codec_for(self._key.plan.public)

    def __reduce__(self) -> Any:
        # Ray pickles the app: neither key nor HE library goes with it, each process loads its own.
        return _make, (self._path, self._passphrase, self._on_overflow)

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Bring the global model up to date, let the client work, and encrypt what it has learned."""
        if message.metadata.message_type not in (MessageType.TRAIN, MessageType.EVALUATE):
            return call_next(message, context)
        control = read_record(message.content, RECORD, "message")
        self._check_run(int(context.run_id))
        model = self._up_to_date(message.content, context, int(control["last_sum"]))
        message.content["arrays"] = _record(model)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        metrics = reply.content.metric_records
        if message.metadata.message_type == MessageType.EVALUATE:
            if not control["reveal"]:
                reply.content = RecordDict({"metrics": MetricRecord()})
            return reply
        parts, local = self._encrypted(reply.content, model, int(control["round"]))
        # What is not averaged stays as this node has trained it.
        context.state[_MODEL] = _record(model | local)
        content: dict[str, Any] = {RECORD: update_record(int(control["round"]), parts)}
        if control["reveal"]:
            content |= dict(metrics)
        return Message(RecordDict(content), reply_to=message)

    def _check_run(self, run: int) -> None:
        """Keep a keystore to one run of Flower: rounds of every run begin at 1, and no round may have two sums.

        The run is noted beside the keystore, before anything is encrypted for it.
        """
        note = self._path.with_name(f"{self._path.name}.flower-run")
        try:
            create_once(note, str(run).encode())
            used = note.read_text().strip()
        except OSError as error:
            raise file_trouble(error, f"{note} cannot be written") from error
        if used != str(run):
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                f"{self._path} is of Flower's run {used}, and this is run {run}; nothing was encrypted",
                "make a new plan and keystore for each run: `he-agg epoch new`",
            )

    def _up_to_date(self, content: Any, context: Any, last: int) -> dict[str, Any]:
        """Return the global model after all sums so far; it is kept in the node's state."""
        state = context.state
        if _MODEL in state.array_records:
            model, done = _arrays(state.array_records[_MODEL]), int(state.config_records[RECORD]["round"])
        else:
            model, done = _arrays(content.array_records["arrays"]), 0
        for number in range(done + 1, last + 1):
            if f"{SUMS}{number}" not in content.config_records:
                raise ProtocolError(
                    Reason.SUM_GONE,
                    f"this node has the model of round {done}, and the sum of round {number} did not come",
                    "EncryptedFedAvg(keep_sums=...) keeps more; or start the run again",
                )
            model = self._moved(model, content.config_records[f"{SUMS}{number}"], number)
        state[_MODEL] = _record(model)
        state[RECORD] = ConfigRecord({"round": last})
        return model

    def _moved(self, model: dict[str, Any], record: Any, number: int) -> dict[str, Any]:
        plan = self._key.plan
        n_sites, data = int(record["n_sites"]), record["parts"]
        places = plan.public.places
        # A sum of one would be an update: refuse what the plan does not allow, before anything is opened.
        if not plan.public.min_sites <= n_sites <= plan.public.max_sites or len(data) != len(places):
            raise ProtocolError(
                Reason.BAD_ANSWER,
                f"round {number}: expected a sum of {plan.public.min_sites} to {plan.public.max_sites} sites in "
                f"{len(places)} parts, got {n_sites} in {len(data)}",
            )

        def part(i: int) -> Part:
            return parse_part(data[i], places[i], plan.plan_id, check_residues=False)

        sums = self._codec.decrypt(part, n_sites, self._key, self._round(number))
        mean = dequantize(plan, sums, n_sites)
        check_agreement(plan, mean, self._digest(model, number), number)
        moved = dict(model)
        for spec in plan.layout.tensors:
            if spec.name in model:
                wide = model[spec.name].astype(np.float64) + mean.tensors[spec.name].astype(np.float64)
                moved[spec.name] = np.asarray(wide.astype(model[spec.name].dtype))  # 0-d sums are no arrays
        return floored(moved, {name for name in moved if is_variance(name)})

    def _encrypted(self, content: Any, model: dict[str, Any], number: int) -> tuple[list[bytes], dict[str, Any]]:
        plan = self._key.plan
        examples = [record["num-examples"] for record in content.metric_records.values() if "num-examples" in record]
        if not examples or "arrays" not in content.array_records:
            raise InputError(
                Reason.BAD_ARGUMENT,
                "reply: expected the record 'arrays' and the metric 'num-examples', got another reply",
                'RecordDict({"arrays": ArrayRecord(...), "metrics": MetricRecord({"num-examples": n})})',
            )
        after = _arrays(content.array_records["arrays"])
        same_layout(after, model, "the reply", "the global model")
        names = [spec.name for spec in plan.layout.tensors if spec.name != SIGNS]
        missing = [name for name in names if name not in after]
        if missing:
            raise InputError(
                Reason.MISSING_TENSOR,
                f"tensor {missing[0]!r}: the plan has it, the model not",
                "make the plan with training_plan and the same arrays",
            )
        update = {name: after[name] - model[name] for name in names}
        update[SIGNS] = signs_of(self._digest(model, number))
        made = quantize(plan, update, int(examples[0]), on_overflow=self._on_overflow)
        self._coarse.tell("this node", made.rounded)
        places = plan.public.places
        parts: dict[int, bytes] = {}
        for part in self._codec.encrypt(made.values, self._key, self._round(number)):
            parts[part.number] = encode_part(part, places[part.number], plan.plan_id)
        local = {name: array for name, array in after.items() if name not in names}
        return [parts[place.number] for place in places], local

    def _digest(self, model: dict[str, Any], number: int) -> str:
        names = {spec.name for spec in self._key.plan.layout.tensors}
        return model_hash({name: array for name, array in model.items() if name in names}, "flower", str(number))

    def _round(self, number: int) -> RoundId:
        return RoundId(self._key.plan.public.federation, number, 1)


def _make(path: Path, passphrase: str | None, on_overflow: OnOverflow) -> EncryptedUpdates:
    return EncryptedUpdates(path, passphrase, on_overflow=on_overflow)


def _arrays(record: Any) -> dict[str, Any]:
    return {name: array.numpy() for name, array in record.items()}


def _record(arrays: dict[str, Any]) -> Any:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
