"""Filters for NVFlare's clients. The client's own code stays as it is: it gets weights, and hands weights back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from client_sdk.adapters.base import missing_extra, numeric
from client_sdk.frameworks.adder import sentence
from client_sdk.frameworks.claim import site_name
from client_sdk.frameworks.site import Keystore, RunSite
from client_sdk.nvflare.records import DELIVERY, PRESENCE, RECORD, Task, bare, carrying, found
from he_agg.errors import HeAggError, InputError, Reason
from he_agg.plan.fixedpoint import OnOverflow

try:
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.filter import Filter
    from nvflare.apis.fl_constant import ReturnCode
    from nvflare.apis.shareable import Shareable, make_reply
except ImportError as error:
    raise missing_extra("nvflare", "nvflare") from error

__all__ = ["ModelDecryptor", "ModelEncryptor"]

_SITE = "he-agg.site"
_ROUND = "he-agg.round"


class ModelDecryptor(Filter):  # type: ignore[misc,unused-ignore]
    """Filter of task data: verify and open the sums that this site lacks, and hand the global model on.

    One for all tasks that get a model. Needs the plan of `training_plan`, made from the job's initial weights. The
    global model is kept beside the keystore; after the last round it is there.

    Args:
        keystore: the site's, of `he-agg epoch accept`: a path, or a name in the client's `local` folder.
        passphrase_file: likewise, if the keystore has a passphrase. The passphrase itself does not belong into a job,
            which the server sees.
    """

    def __init__(self, keystore: str, passphrase_file: str | None = None) -> None:
        super().__init__()
        self.keystore, self.passphrase_file = keystore, passphrase_file
        self._opened: Keystore | None = None
        self._site: RunSite | None = None
        self._lock = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Be ready for the last sum, which comes without a task."""
        if event_type == EventType.START_RUN:
            engine = fl_ctx.get_engine()
            engine.register_aux_message_handler(PRESENCE, self._here)
            engine.register_aux_message_handler(DELIVERY, self._take_last)

    def process(self, shareable: Any, fl_ctx: Any) -> Any:
        """Put the global model in the place of the sums."""
        try:
            with self._lock:
                task, site = self._follow(shareable, fl_ctx)
                model = site.follow({}, site.done)
        except HeAggError as error:
            self.log_error(fl_ctx, sentence(error))
            raise
        fl_ctx.set_prop(_SITE, site, private=True, sticky=False)
        fl_ctx.set_prop(_ROUND, task.round, private=True, sticky=False)
        return bare(shareable, DXO(DataKind.WEIGHTS, data=model))

    def _here(self, topic: str, request: Any, fl_ctx: Any) -> Any:  # noqa: ARG002 - NVFlare names them
        return make_reply(ReturnCode.OK)

    def _take_last(self, topic: str, request: Any, fl_ctx: Any) -> Any:  # noqa: ARG002 - NVFlare names them
        try:
            with self._lock:
                _, site = self._follow(request, fl_ctx)
        except HeAggError as error:
            self.log_error(fl_ctx, sentence(error))
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        self.log_info(fl_ctx, f"the model after round {site.done} is in {site.model_path}")
        return make_reply(ReturnCode.OK)

    def _follow(self, shareable: Any, fl_ctx: Any) -> tuple[Task, RunSite]:
        task = Task.of(shareable)
        if self._opened is None:
            self._opened = Keystore(found(self.keystore, fl_ctx), self._passphrase(fl_ctx))
        name = site_name(fl_ctx.get_identity_name())
        if self._site is None or (self._site.name, self._site.run) != (name, task.run):
            self._site = RunSite(self._opened, name, task.run)
        if weights := from_shareable(shareable).data:
            self._site.begin({name: numeric(name, value) for name, value in weights.items()})
        self._site.follow(task.sums, task.last_sum)
        return task, self._site

    def _passphrase(self, fl_ctx: Any) -> str | None:
        if self.passphrase_file is None:
            return None
        return Path(found(self.passphrase_file, fl_ctx)).read_text().rstrip("\n")


class ModelEncryptor(Filter):  # type: ignore[misc,unused-ignore]
    """Filter of task results: encrypt what was learned. Everything else of a result stays at the site.

    It goes with `ModelDecryptor` among the task data filters of the same task, and needs no settings of its own.

    Args:
        on_overflow: what entries beyond the clip bound get: an "error", or "clip".
        may_repeat: whether an update that may be in a sum already is encrypted for another one.
        reveal_metrics: whether metrics, and what the result says about itself, number of examples included, go to the
            server in the clear.
    """

    def __init__(
        self, on_overflow: OnOverflow = "error", may_repeat: bool = False, reveal_metrics: bool = False
    ) -> None:
        super().__init__()
        self.on_overflow, self.may_repeat, self.reveal_metrics = on_overflow, may_repeat, reveal_metrics

    def process(self, shareable: Any, fl_ctx: Any) -> Any:
        """Put the encrypted update in the place of the result."""
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code)  # without whatever else was in it
        try:
            return self._process(shareable, fl_ctx)
        except HeAggError as error:
            self.log_error(fl_ctx, sentence(error))
            raise

    def _process(self, shareable: Any, fl_ctx: Any) -> Any:
        dxo = _dxo_of(shareable)
        meta = dict(dxo.meta or {})
        if dxo.data_kind == DataKind.METRICS:
            revealed = DXO(DataKind.METRICS, data=dxo.data, meta=meta) if self.reveal_metrics else None
            return bare(shareable, revealed or DXO(DataKind.METRICS, data={}))
        site: RunSite | None = fl_ctx.get_prop(_SITE)
        if site is None:
            raise InputError(
                Reason.BAD_ARGUMENT,
                "result: expected a task whose data came through ModelDecryptor, got another one",
                "add ModelDecryptor to the task data filters of this task; a site's own model is not for others",
            )
        weight = meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND)
        if weight is None:
            raise InputError(
                Reason.WEIGHT_OUT_OF_RANGE,
                "result: expected its weight, got none",
                "FLModel(params=..., meta={'NUM_STEPS_CURRENT_ROUND': n})",
            )
        values = {name: numeric(name, value) for name, value in dxo.data.items()}
        update, local = (values, {}) if dxo.data_kind == DataKind.WEIGHT_DIFF else site.difference(values)
        submission = site.submit(
            fl_ctx.get_prop(_ROUND),
            update,
            weight,
            local,
            on_overflow=self.on_overflow,
            may_repeat=self.may_repeat,
        )
        bare(shareable, DXO(DataKind.WEIGHT_DIFF, data={}, meta=meta if self.reveal_metrics else {}))
        shareable[RECORD] = carrying(submission)
        return shareable


def _dxo_of(shareable: Shareable) -> DXO:
    """Read a result's DXO: nothing that this filter does not know leaves the site."""
    try:
        dxo = from_shareable(shareable)
    except ValueError as error:
        raise _unknown("another object") from error
    if dxo.data_kind not in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF, DataKind.METRICS):
        raise _unknown(f"a DXO of {dxo.data_kind}")
    return dxo


def _unknown(what: str) -> InputError:
    return InputError(
        Reason.BAD_ARGUMENT,
        f"result: expected a DXO of WEIGHTS or WEIGHT_DIFF, got {what}; it was not sent",
        "a client that answers with an FLModel of parameters makes one",
    )
