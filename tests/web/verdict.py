"""Says whether what happened in a round of `tests.web.traffic` may happen.

Every byte at a backend belongs to a request that its client meant, whole and once, unless it may be
sent twice; nothing comes in between, before or behind. Every client reads valid HTTP: in order one
answer a request, its own, and where an answer is cut that can be seen.
"""

from collections.abc import Callable, Iterator

from tests.web.meant import IDEMPOTENT, Meant, difference, meant, offers
from tests.web.scripts import Answer
from tests.web.strict import Message, backend_requests, responses
from tests.web.traffic import MAX_BODY, BreachError, Client, Seen, Traffic

Lookup = Callable[[bytes], list[Answer] | None]


def check(traffic: Traffic) -> None:
    """Raise BreachError for the first thing that must not be."""
    #: What came to a backend that had lost count before: it may get anything.
    excused: set[bytes] = set()

    def lookup(target: bytes) -> list[Answer] | None:
        """What backends may have answered; None: who knows."""
        tries = [answer for (asked, _), answer in traffic.answers.items() if asked == target]
        faulty = any(answer.faulty for answer in tries) and not tries[0].bad
        return None if faulty or target in excused else tries

    arrived: dict[str, list[tuple[int, Message, bool, Seen]]] = {}
    for seen in traffic.seen:
        if seen.tunnel < 0 <= seen.said_more < len(seen.received):
            raise BreachError(f"asked again, having said more: {bytes(seen.received)!r}")
        several = len(seen.order) > 1
        for number, message, whole in _messages(seen):
            if several and (message.body or message.framing == "chunked"):
                # Who doesn't read it would take it for the next request.
                raise BreachError(f"a body on a shared connection: {bytes(seen.received)!r}")
            names = message.all(b"x-forwarded-for")
            if len(names) != 1:
                raise BreachError(f"X-Forwarded-For {names} in {message}")
            if number and message.method not in IDEMPOTENT:
                raise BreachError(f"what may not be sent twice, on a kept connection: {message}")
            if any(answer.faulty for answer in seen.answers[:number]):
                excused.add(message.target)
            elif not all(answer.keep for answer in seen.answers[:number]):
                raise BreachError(f"asked again, having said it closes: {bytes(seen.received)!r}")
            # The last address is that of whoever is connected.
            name = names[0].rpartition(b", ")[2].decode()
            arrived.setdefault(name, []).append((seen.order[number], message, whole, seen))
    for client in traffic.clients:
        try:
            wanted, last = meant(client.stream)
            wanted = [one._replace(whole=one.whole and len(one.body) <= MAX_BODY) for one in wanted]
            came = sorted(arrived.pop(client.name, []), key=lambda item: item[0])
            _check_requests(traffic.loose, client, wanted, came)
            if client.end != "left":
                _check_responses(client, wanted, last, lookup, traffic.strained)
        except BreachError as breach:
            raise BreachError(f"{breach}\n{story(traffic, client)}") from None
    if arrived:
        raise BreachError(f"requests of nobody: {arrived}")


def story(traffic: Traffic, client: Client) -> str:
    """All that is known of one client."""
    lines = [f"seed {traffic.seed}, client {client.name}", f"sent {bytes(client.sent)!r}"]
    lines.append(f"of {client.stream!r}")
    lines.append(f"received {bytes(client.received[:1500])!r}, then {client.end}")
    for number, seen in enumerate(traffic.seen):
        if client.name.encode() + b"\r" in seen.received:
            lines.append(f"backend {number} got {bytes(seen.received[:1500])!r}, {seen.closed}")
    for (target, again), answer in traffic.answers.items():
        if target in client.stream:
            told = [a if not isinstance(a, bytes) else a[:100] for a in answer.actions]
            lines.append(f"answer {target!r} {again}: {told}")
    return "\n".join(lines)


def _messages(seen: Seen) -> Iterator[tuple[int, Message, bool]]:
    data = bytes(seen.received)
    reading = backend_requests(data if seen.tunnel < 0 else data[: seen.tunnel])
    if reading.refused is not None:
        raise BreachError(f"a backend got {bytes(seen.received)!r}: {reading.refused}")
    for number, message in enumerate(reading.messages):
        yield number, message, True
    if reading.partial is not None and reading.partial.framed:
        yield len(reading.messages), reading.partial, False


def _check_requests(
    loose: frozenset[bytes], client: Client, wanted: list[Meant], came: list
) -> None:
    at = -1
    for _, message, whole, seen in came:
        why = [difference(one, message, loose) for one in wanted]
        found = [n for n in range(max(at, 0), len(wanted)) if not why[n]]
        if not found:
            raise BreachError(f"nobody asked for {message}: {why}")
        number = found[0]
        if number == at and message.method not in IDEMPOTENT:
            raise BreachError(f"sent twice: {message}")
        at = number
        one = wanted[number]
        if message.all(b"upgrade") and not offers(one.asked):
            raise BreachError(f"an upgrade that nobody asked for: {message}")
        if seen.tunnel == message.end:
            behind = client.stream[one.asked.end :]
            if not behind.startswith(bytes(seen.received[seen.tunnel :])):
                raise BreachError(f"other bytes in the tunnel: {bytes(seen.received)!r}")
            # No more requests are in the stream.
            del wanted[number + 1 :]
        if whole:
            if not one.whole:
                raise BreachError(f"whole at the backend, not from the client: {message}")
            if bytes(message.body) != one.body:
                raise BreachError(f"another body: {message}, meant {one.body!r}")
        else:
            if not one.body.startswith(bytes(message.body)):
                raise BreachError(f"another body: {message}, meant {one.body!r}")
            if seen.closed == "them" and not seen.acted and one.whole and client.end != "left":
                raise BreachError(f"not sent to its end: {message}")


def _check_responses(
    client: Client, wanted: list[Meant], last: Message | None, lookup: Lookup, strained: bool
) -> None:
    asked = [(one.method, one.asked.minor) for one in wanted]
    clean = client.end == "eof"
    data = bytes(client.received)
    reading = responses(data, asked, clean)
    if reading.refused is not None and last is not None and last.method == b"HEAD":
        # Who refuses it may not have known its method.
        reading = responses(data, [*asked, (b"HEAD", 1)], clean)
    if reading.refused is not None:
        raise BreachError(f"a client got what isn't HTTP: {reading.refused}")
    got = reading.messages
    if len(got) > len(wanted) + 1:
        raise BreachError(f"{len(got)} responses to {len(wanted)} requests")
    for number, response in enumerate(got):
        if number < len(wanted):
            _check_response(wanted[number], response, True, lookup, strained)
        elif response.all(b"x-tag"):
            raise BreachError(f"a backend's response to what was no request: {response}")
    if reading.partial is not None and reading.partial.headed and len(got) < len(wanted):
        _check_response(wanted[len(got)], reading.partial, False, lookup, strained)
    whole = sum(one.whole for one in wanted)
    if clean and len(got) < whole:
        last = got[-1] if got else None
        if last is None or (
            last.status != 101
            and (
                b"close" not in last.options()
                and (asked[len(got) - 1][1] or b"keep-alive" in last.options())
            )
        ):
            raise BreachError(f"{len(got)} responses to {whole} requests, and no end shown")


def _check_response(
    one: Meant, response: Message, whole: bool, lookup: Lookup, strained: bool
) -> None:
    tags = response.all(b"x-tag")
    tries = lookup(one.target)
    if tries is None:
        return
    if len(tries) == 1 and tries[0].bad:
        if response.status < 400 or tags:
            raise BreachError(f"taken from a backend that doesn't speak HTTP: {response}")
        return
    if response.status == 101 and not offers(one.asked):
        raise BreachError(f"switched: {response}")
    if not tags:
        _check_refusal(one, response, tries, strained)
        return
    if tags != [one.target]:
        raise BreachError(f"the response for {tags} came to {one.target!r}")
    body = bytes(response.body)
    fits = [answer for answer in tries if answer.status == response.status]
    if not any(answer.gives(body, whole) for answer in fits):
        raise BreachError(f"another body: {response}: {body[:100]!r}")


def _check_refusal(one: Meant, response: Message, tries: list[Answer], strained: bool) -> None:
    """An answer of the proxy's own: only where there is a reason for it."""
    status = response.status
    if response.all(b"x-poison") or status not in (400, 408, 413, 502, 503, 504):
        raise BreachError(f"whose is this: {response}")
    if strained or not one.whole:
        return
    if status in (400, 408):
        raise BreachError(f"refused: {response} to {one}")
    if status > 500 and any(answer.whole and not answer.early for answer in tries):
        raise BreachError(f"a good answer was lost: {response} to {one}")
