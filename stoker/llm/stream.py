"""The text of one completion, piece by piece as it is generated."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request, RequestOutput
from stoker.engine.text.tokenizer import Encoded
from stoker.errors import InvalidRequestError, StokerError
from stoker.llm.session import Session


def stream(session: Session, prompt: Encoded, params: SamplingParams) -> Iterator[str]:
    """Check the parameters and return the iterator of `LLM.stream`.

    Raises:
        InvalidRequestError: a stream of text has no place for what they ask for.
    """
    if params.num_drawn > 1 or params.logprobs is not None or params.prompt_logprobs is not None:
        raise InvalidRequestError(
            "a stream gives the text of one completion; leave n, best_of, logprobs and "
            "prompt_logprobs out, or use generate"
        )
    with session.turn():
        request = session.request(prompt, params, stream=True)
    return _pieces(session, request)


def _pieces(session: Session, request: Request) -> Iterator[str]:
    finished = False
    try:
        with session.turn():
            session.add(request)
        while not finished:
            text, finished, error = session.advance(request, _progress)
            if text:
                yield text
            if error is not None:
                raise StokerError(f"the completion failed: {error}")
    finally:
        session.cancel(request)


def _progress(output: RequestOutput) -> tuple[str, bool, str | None]:
    return output.outputs[0].take_text(), output.finished, output.error
