"""Our models in lm-eval: asked, cut and refused as everywhere here.

lm-eval's `apply_chat_template` puts the first line of the answer into the question, and options
after it without a space; it cuts prompts from the left, a template's opening first; and it takes
NaN for an answer. So prompts are encoded, and answers generated, by this package.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from atu.errors import EvaluationError, LengthError, shown
from atu.inference.batching import BatchSize
from atu.inference.finite import failing_layer, not_finite
from atu.inference.fitting import require_new_tokens, shorten
from atu.inference.generation import greedy_answers
from atu.models.chat import prompt_ids, turn_end
from atu.training.batches import encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Encoded = tuple[list[int], list[int]]
GREEDY = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
"""What a task may say of generation; the last three only concern samples."""


class LanguageModel(HFLM):  # type: ignore[misc]
    """A model with its tokenizer, for `lm_eval.simple_evaluate`."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.truncated: set[tuple[str, int]] = set()
        """Task and number of every document whose prompt was cut."""
        self._asked: list[tuple[str, list[int]]] = []

    @property
    def eot_token_id(self) -> Any:
        """The token that ends an answer."""
        return turn_end(self.tokenizer)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The log-probability of every continuation, and whether it is the greedy one.

        Raises:
            EvaluationError: a continuation has no token, or a logit is not finite.
            LengthError: a prompt cannot be cut so that it fits.
        """
        pairs = [self._encoded(request) for request in requests]
        self._asked = [
            (_name(request), [*before, *after])
            for request, (before, after) in zip(requests, pairs, strict=True)
        ]
        given = [(request.args, *pair) for request, pair in zip(requests, pairs, strict=True)]
        return list(self._loglikelihood_tokens(given, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in windows."""
        self._asked = []
        return list(super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to every prompt, by `greedy_answers`. The leading space is kept, which
        a continued program needs.

        Raises:
            EvaluationError: a task samples, or asks for more tokens than the context holds.
            LengthError, EvaluationError: as `greedy_answers`.
        """
        how = [self._generation(request) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: how[i])
        answers: dict[int, str] = {}
        for (task, new, until), group in groupby(order, key=lambda i: how[i]):
            chosen = list(group)
            texts = greedy_answers(
                self.model,
                self.tokenizer,
                [self._prompt(requests[i], new) for i in chosen],
                max_new_tokens=new,
                batch_size=BatchSize(self.batch_size),
                label=task,
                stripped=False,
                stops=until,
            )
            answers |= zip(chosen, texts, strict=True)
        return [answers[i] for i in range(len(requests))]

    def _model_call(
        self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Logits [batch, seq, vocab] for `inps` [batch, seq], padded on the right.

        Raises:
            EvaluationError: one is not finite; names the document and the layer.
        """
        logits: Tensor = super()._model_call(inps, attn_mask, labels)
        if not bool(torch.isfinite(logits).all()):
            for row, ids in zip(logits, inps.tolist(), strict=True):
                name, read = self._who(ids)
                if not bool(torch.isfinite(row[: len(read)]).all()):
                    raise not_finite(name, failing_layer(self.model, read))
        return logits

    def _who(self, ids: list[int]) -> tuple[str, list[int]]:
        """The document of a padded row, and its ids without padding."""
        read = [(name, own[-(self.max_length + 1) :][:-1]) for name, own in self._asked]
        matching = [(name, own) for name, own in read if ids[: len(own)] == own]
        return max(matching, key=lambda pair: len(pair[1]), default=("lm-eval, a text", ids))

    def _encode_pair(self, context: str, continuation: str) -> Encoded:
        """Token ids of a prompt and of what continues it."""
        text = encode_text(self.tokenizer, context + continuation, context, end=False)
        return text.ids[: text.answer_start], text.ids[text.answer_start :]

    def _encoded(self, request: Any) -> Encoded:
        """Token ids of the prompt, cut to the context, and of the continuation."""
        context, continuation = request.args
        bare = context.rstrip()  # as in lm-eval: the space belongs to the word after it
        continuation = context[len(bare) :] + continuation

        def read(text: str) -> int:  # the last token is predicted, not read
            return sum(map(len, self._encode_pair(text, continuation))) - 1

        if bare:
            before, after = self._encode_pair(self._cut(request, bare, read), continuation)
        else:
            before = [self.prefix_token_id]
            after = self.tok_encode(continuation, add_special_tokens=False)
        if not after:
            raise EvaluationError(f"{_name(request)}: has no token after its prompt")
        return before, after

    def _prompt(self, request: Any, new: int) -> str:
        """The prompt, cut so that `new` tokens fit behind it."""
        return self._cut(
            request, request.args[0], lambda text: len(prompt_ids(self.tokenizer, [text])[0]) + new
        )

    def _cut(self, request: Any, prompt: str, needed: Callable[[str], int]) -> str:
        """The prompt, or what of it fits the context, which is noted; `needed` counts tokens."""
        shorter = shorten(prompt, lambda text: needed(text) <= self.max_length)
        if shorter is None:
            raise LengthError(
                f"{_name(request)}: not even the end of its prompt fits the {self.max_length} "
                "tokens of the model's context; leave the task out, or take a model with a longer "
                "one"
            )
        if shorter != prompt:
            self.truncated.add((request.task_name, request.doc_id))
        return shorter

    def _generation(self, request: Any) -> tuple[str, int, tuple[str, ...]]:
        """Task, tokens of an answer at most, and the strings that end it."""
        task, given = request.task_name, normalize_gen_kwargs(request.args[1], self.max_gen_toks)
        extra = {key: given[key] for key in sorted(set(given) - GREEDY)}
        if given["do_sample"] or extra:
            how = "samples its answers" if given["do_sample"] else f"generates with {shown(extra)}"
            raise EvaluationError(f"{task}: {how}; only greedy answers are scored, so leave it out")
        new = given["max_gen_toks"]
        require_new_tokens(task, new, self.max_length)
        return task, new, tuple(stop for stop in given.get("until") or () if stop)


def _name(request: Any) -> str:
    """What a failure calls a request: its task, its document and, of a choice, the option."""
    option = request.args[1] if isinstance(request.args[1], str) else None
    document = f"{request.task_name}, document {request.doc_id}"
    return document if option is None else f"{document}, {shown(option)}"
