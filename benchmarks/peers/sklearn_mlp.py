"""scikit-learn's `MLPClassifier` on the prepared rows, in fp32 as they are, without L2 penalty and early stopping.

Needs scikit-learn; `table_training.py` runs it in an environment of its own.
"""

from __future__ import annotations

import time
import warnings

import sklearn
import table_common
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits


def main() -> None:
    options = table_common.options(__doc__)
    if options.dropout:
        raise SystemExit("MLPClassifier has no dropout")
    x, y = options.part("train")
    model = MLPClassifier(
        hidden_layer_sizes=tuple(options.widths),
        activation="relu",
        solver="adam",
        alpha=0.0,
        batch_size=options.batch,
        learning_rate_init=options.lr,
        max_iter=options.epochs,
        # So that all epochs are run, whatever the loss does.
        n_iter_no_change=options.epochs + 1,
        early_stopping=False,
        random_state=options.seed,
    )
    warnings.simplefilter("ignore", ConvergenceWarning)
    with threadpool_limits(options.threads):
        start = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - start
        accuracy = model.score(*options.part("test"))
    table_common.finish(
        training_seconds=round(seconds, 3),
        epochs=model.n_iter_,
        accuracy=round(float(accuracy), 4),
        losses=[round(float(loss), 4) for loss in model.loss_curve_],
        dtype=str(model.coefs_[0].dtype),
        parameters=sum(a.size for a in (*model.coefs_, *model.intercepts_)),
        sklearn=sklearn.__version__,
    )


if __name__ == "__main__":
    main()
