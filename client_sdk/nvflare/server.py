"""Components for NVFlare's server, which adds ciphertexts. None holds a key, and none sees a model after the first."""

from __future__ import annotations

import secrets
from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.frameworks.adder import Adder, read_federation, sentence
from client_sdk.frameworks.claim import NO_SUM, RUN_BYTES, Claim, digest_of, site_name
from client_sdk.nvflare.records import DELIVERY, PRESENCE, RECORD, carried, carrying, found, record_of
from he_agg.documents.federation import FederationDocument
from he_agg.errors import ConfigError, HeAggError, Reason

try:
    from nvflare.apis.dxo import DXO, DataKind
    from nvflare.apis.fl_constant import ReservedKey, ReturnCode
    from nvflare.apis.shareable import Shareable
    from nvflare.app_common.abstract.aggregator import Aggregator
    from nvflare.app_common.abstract.learnable_persistor import LearnablePersistor
    from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey
    from nvflare.app_common.abstract.model_persistor import ModelPersistor
    from nvflare.app_common.abstract.shareable_generator import ShareableGenerator
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.app_common.app_event_type import AppEventType
except ImportError as error:
    raise missing_extra("nvflare", "nvflare") from error

__all__ = ["SumAggregator", "SumPersistor", "SumShareableGenerator"]

_PRESENCE_S = 30.0


class SumAggregator(Aggregator):  # type: ignore[misc,unused-ignore]
    """Adds the residues of each round's results as they come.

    Args:
        federation: the public document of `he-agg epoch new`: a path, or a name in the server's `local` folder.
    """

    def __init__(self, federation: str) -> None:
        super().__init__()
        self.federation = federation
        self._document: FederationDocument | None = None
        self._adder: Adder | None = None

    def accept(self, shareable: Any, fl_ctx: Any) -> bool:
        """Add a site's result; False, and a sentence in the log, for one that cannot be."""
        name = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "")
        try:
            adder = self._adder or self._begin(fl_ctx)
            adder.add(site_name(name), *carried(record_of(shareable, f"result of {name}")))
        except HeAggError as error:
            self.log_warning(fl_ctx, f"{name} is not counted: {sentence(error)}")
            return False
        return True

    def aggregate(self, fl_ctx: Any) -> Any:
        """Return the sum.

        Raises:
            ProtocolError: of fewer sites than the plan allows.
        """
        try:
            total = (self._adder or self._begin(fl_ctx)).total()
        except HeAggError as error:
            self.log_error(fl_ctx, sentence(error))
            raise
        result = DXO(DataKind.WEIGHT_DIFF, data={}).to_shareable()
        result[RECORD] = carrying(total)
        return result

    def reset(self, fl_ctx: Any) -> None:  # noqa: ARG002 - its base has it
        """Begin another round."""
        self._adder = None

    def _begin(self, fl_ctx: Any) -> Adder:
        if self._document is None:
            self._document = read_federation(found(self.federation, fl_ctx))
        state = _state_of(fl_ctx.get_prop(AppConstants.GLOBAL_MODEL))
        self._adder = Adder(self._document, state["run"], state["last_sum"] + 1, state["digest"])
        return self._adder


class SumShareableGenerator(ShareableGenerator):  # type: ignore[misc,unused-ignore]
    """Sends the sites the initial weights once, and then sums. After the last round it brings them the last one.

    Args:
        keep_sums: how many sums are kept for sites that were away.
        delivery_s: how long the sites may take to get and open the last sum, in seconds.
    """

    def __init__(self, keep_sums: int = 5, delivery_s: float = 600.0) -> None:
        super().__init__()
        self.keep_sums, self.delivery_s = keep_sums, delivery_s

    def learnable_to_shareable(self, model_learnable: Any, fl_ctx: Any) -> Any:
        """Make a task's data: what the site that has least still lacks."""
        state = _state_of(model_learnable)
        last, seen = state["last_sum"], state["seen"]
        sites = [site_name(client.name) for client in fl_ctx.get_engine().get_clients()]
        # Who is further behind than sums are kept is beyond help. Who was never heard of has not even the weights.
        had = min(
            (n for n in (seen.get(site, -1) for site in sites) if last - max(n, 0) <= self.keep_sums), default=last
        )
        weights = model_learnable[ModelLearnableKey.WEIGHTS] if had < 0 else {}
        shareable = DXO(DataKind.WEIGHTS, data=weights).to_shareable()
        facts = {"run": state["run"], "round": last + 1, "last_sum": last}
        shareable[RECORD] = facts | {"sums": {n: some for n, some in state["sums"].items() if int(n) > had}}
        return shareable

    def shareable_to_learnable(self, shareable: Any, fl_ctx: Any) -> Any:
        """Put a round's sum to those before; the weights stay the initial ones."""
        model: ModelLearnable = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        state, (claims, parts) = _state_of(model), carried(record_of(shareable, "aggregator"))
        number = state["last_sum"] + 1
        state["last_sum"], state["digest"] = number, digest_of(claims)
        state["sums"][str(number)] = carrying((claims, parts))
        state["sums"].pop(str(number - self.keep_sums), None)
        state["seen"] |= {Claim.parse(claim).site: number - 1 for claim in claims}
        return model

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Bring the sites the last sum, for which there is no task."""
        if event_type == AppEventType.ROUND_DONE:
            rounds = fl_ctx.get_prop(AppConstants.START_ROUND, 0) + fl_ctx.get_prop(AppConstants.NUM_ROUNDS, 0)
            if fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1 >= rounds:
                self._deliver(fl_ctx)

    def _deliver(self, fl_ctx: Any) -> None:
        names = [client.name for client in fl_ctx.get_engine().get_clients()]
        # A site that has died is among them, and is not waited for as one that opens a large sum.
        codes = _asked(names, PRESENCE, Shareable(), min(_PRESENCE_S, self.delivery_s), fl_ctx)
        there = [name for name in names if codes.get(name) == ReturnCode.OK]
        data = self.learnable_to_shareable(fl_ctx.get_prop(AppConstants.GLOBAL_MODEL), fl_ctx)
        codes = _asked(there, DELIVERY, data, self.delivery_s, fl_ctx)
        for name in names:
            code = codes.get(name, "no reply") if name in there else "it is not in the job any more"
            if code == ReturnCode.OK:
                self.log_info(fl_ctx, f"{name} has opened the last sum")
            else:
                self.log_warning(fl_ctx, f"{name} has not opened the last sum: {code}; its own log says why")


def _asked(names: list[str], topic: str, data: Any, seconds: float, fl_ctx: Any) -> dict[str, str]:
    """Send sites a message, and return the codes of their replies."""
    replies = fl_ctx.get_engine().send_aux_request(names, topic, data, seconds, fl_ctx) if names else None
    return {name: reply.get_return_code() for name, reply in (replies or {}).items()}


class SumPersistor(ModelPersistor):  # type: ignore[misc,unused-ignore]
    """Loads the initial weights by another persistor, and saves nothing: the server has no model that it could save.

    Args:
        persistor_id: id of that one.
    """

    def __init__(self, persistor_id: str) -> None:
        super().__init__()
        self.persistor_id = persistor_id

    def load_model(self, fl_ctx: Any) -> Any:
        """Load the initial weights."""
        other = fl_ctx.get_engine().get_component(self.persistor_id)
        if not isinstance(other, LearnablePersistor):
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"persistor_id {self.persistor_id!r}: expected the id of a persistor in the server's job, got "
                f"{'none' if other is None else type(other).__name__}",
                "name the one that loads the initial weights, such as PTFileModelPersistor",
            )
        return other.load(fl_ctx)

    def save_model(self, model: Any, fl_ctx: Any) -> None:  # noqa: ARG002 - its base has it
        """Say where the model is."""
        self.log_info(fl_ctx, "the sum stays encrypted here; the model is at the sites, beside their keystores")


def _state_of(model: Any) -> dict[str, Any]:
    """Return what the server keeps of a run, in its model: NVFlare's snapshots then have it, too."""
    if model[ModelLearnableKey.META] is None:
        model[ModelLearnableKey.META] = {}
    run = {"run": secrets.token_hex(RUN_BYTES), "last_sum": 0, "digest": NO_SUM, "sums": {}, "seen": {}}
    state: dict[str, Any] = model[ModelLearnableKey.META].setdefault(RECORD, run)
    return state
