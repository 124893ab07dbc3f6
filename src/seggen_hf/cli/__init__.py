"""`seggen`: one command per stage; turns errors into one line and an exit status."""

from .app import app, main, register
from .beginning import init
from .data import caption, doctor
from .export import export
from .loop import quickstart, run, train
from .page import demo
from .planning import plan
from .prediction import predict
from .publishing import push
from .results import evaluate, report, status
from .synthetic import filter, synthesize

__all__ = ["app", "main"]

for function in (
    quickstart,
    init,
    run,
    status,
    plan,
    train,
    doctor,
    caption,
    synthesize,
    filter,
    evaluate,
    predict,
    export,
    report,
    push,
    demo,
):
    register(function)  # in the order that `seggen --help` lists them
