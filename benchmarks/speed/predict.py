"""The mean prediction of the network of Table 12: C = 100 samples × 10,000 images.

All samples at once from bytes, as the strategies do it; the same from floats; one sample after the other. The limits
are the products alone, of bytes (`clbinn.nn.byte_products`) or of floats. Peak memory is what the process holds above
what it held with data and network in place.
"""

import argparse
import threading
from collections.abc import Callable

import psutil
import torch
from authors import Authors
from images import MEAN, STD, images
from measure import Number, interleave, main, ratios, timed
from torch import Tensor

from clbinn import optim
from clbinn.nn import MLP
from clbinn.nn.byte_products import ByteProducts
from clbinn.nn.many import BYTES_AT_A_TIME, ByteInputs
from clbinn.predict import predict_log_proba

BATCH = 1000


def products(raw: Tensor, samples: int, exact: bool) -> Callable[[], None]:
    """The products of all samples in groups: the first layer as one product, the others batched."""
    batches = raw.split(BYTES_AT_A_TIME if exact else BATCH)
    group = min(samples, 10 * BATCH // len(batches[0]))
    weight = torch.randn(group * 100, 784).sign_()
    second, third = torch.randn(group, 100, 100).sign_(), torch.randn(group, 10, 100).sign_()
    hidden = torch.randn(group, 100, len(batches[0]))
    first = ByteProducts(batches) if exact else None
    floats = [] if exact else [batch.float() for batch in batches]

    def run() -> None:
        for _ in range(samples // group):
            ready = first.weights(weight) if first else []
            for i in range(len(batches)):
                if first:
                    first.multiply(i, ready)
                else:
                    weight.mm(floats[i].T)
                torch.bmm(second, hidden)
                torch.bmm(third, hidden)

    return run


def peak_megabytes(work: Callable[[], object]) -> float:
    """How far the resident memory of this process rises while `work` runs, looked at every millisecond."""
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(1e-3):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    peak = max(peak, process.memory_info().rss)
    done.set()
    watcher.join()
    return (peak - before) / 1e6


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    data = images(options.data_root, options.quick, note)
    samples = 10 if options.quick else 100
    raw = data.test_images.flatten(1).contiguous()
    inputs = ByteInputs(raw, 1 / (255 * STD), -MEAN / STD)
    floats = inputs.floats()
    net = MLP(784, [100, 100], 10)
    opt = optim.BayesBiNN(net.parameters(), num_data=len(data.train_images), init_natural=1.0, seed=0)

    def predict(x: Tensor | ByteInputs, one_by_one: bool = False) -> Tensor:
        return predict_log_proba(net, opt, x, samples, batch_size=BATCH, forward=net if one_by_one else None)

    memory = peak_megabytes(lambda: predict(inputs))  # first: memory once used may stay with the process
    contenders = {
        "bytes": timed(lambda: predict(inputs)),
        "floats": timed(lambda: predict(floats)),
        "one by one": timed(lambda: predict(floats, one_by_one=True)),
        "byte products": timed(products(raw, samples, exact=True)),
        "float products": timed(products(raw, samples, exact=False)),
    }
    if options.baseline is not None:
        theirs = Authors(options.baseline, len(data.train_images))
        contenders["authors"] = timed(lambda: [theirs.predict(x, samples) for x in floats.split(BATCH)])
    seconds = interleave(contenders, options.rounds)
    of = f"{samples} samples × {len(raw):,} images"
    numbers = [
        Number(f"{of}, from bytes", "s", seconds["bytes"], seconds["byte products"]),
        Number(f"{of}, from floats", "s", seconds["floats"], seconds["float products"]),
        Number(f"{of}, one after the other", "s", seconds["one by one"], seconds["float products"]),
        Number("one after the other over from bytes", "×", ratios(seconds["one by one"], seconds["bytes"])),
        Number("their products alone, bytes (the limit)", "s", seconds["byte products"]),
        Number("their products alone, floats (the limit)", "s", seconds["float products"]),
        Number("peak memory from bytes, above data and network", "MB", [memory]),
    ]
    if options.baseline is not None:
        numbers += [
            Number(f"{of}, the authors'", "s", seconds["authors"], seconds["float products"]),
            Number("the authors' time over ours", "×", ratios(seconds["authors"], seconds["bytes"])),
        ]
    return numbers


if __name__ == "__main__":
    main("predict", measure, rounds=7, takes=("threads", "data_root", "baseline"))
