"""The cloud: take streams from MQTT, detect objects from them, write a Parquet file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import paho.mqtt.client as mqtt

import cdvision
from cdvision.pipelines.sinks import write_results

WAITING = 256  # messages: beyond that the broker keeps them


def subscribed(host: str, port: int, topic: str, messages: Queue[Any]) -> mqtt.Client:
    """Connect and put every message of the topic into a queue, in a thread of the client's."""
    # A session that the broker remembers: what comes while this is away is delivered later.
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id="cdvision-receiver", clean_session=False
    )
    client.on_connect = lambda *_: client.subscribe(f"{topic}/#", qos=1)
    client.on_subscribe = lambda *_: print("listening", flush=True)
    client.on_message = lambda _, __, message: messages.put(message)
    client.connect(host, port)
    client.loop_start()
    return client


def first_of_each(messages: Queue[Any], count: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` (topic, stream) pairs; a message that comes again is left out.

    Quality of service 1 delivers at least once.
    """
    seen: set[str] = set()
    while len(seen) < count:
        message = messages.get()
        if message.topic not in seen:
            seen.add(message.topic)
            yield message.topic, message.payload


def main() -> None:
    """Take ``--count`` streams, write what is in them, and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--topic", default="cdvision")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--to", type=Path, default=Path("detections.parquet"))
    options = parser.parse_args()

    model = cdvision.load()
    messages: Queue[Any] = Queue(WAITING)
    client = subscribed(options.host, options.port, options.topic, messages)
    streams = first_of_each(messages, options.count)
    written = write_results(model.analyze(streams, batch_size=4), options.to, force=True)
    print(f"received {written.results}, {written.errors} errors: {options.to}", flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
