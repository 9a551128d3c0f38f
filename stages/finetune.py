"""finetune (trainer, key-free): encrypted shards + adapted model -> adapter, with live metrics for `dvc plots`."""

from dvclive import Live

from ppvit import finetune, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    # DVC tracks the folder itself (see dvc.yaml), so DVCLive need not write a dvc.yaml or an experiment of its own
    with Live(str(paths.LIVE), dvcyaml=None, save_dvc_exp=False, report=None) as live:

        def log(epoch: int, metrics: dict[str, float]) -> None:
            live.step = epoch
            for name, value in metrics.items():
                live.log_metric(name, value)
            live.make_summary()

        finetune.run(
            config.finetune,
            encrypted=paths.encrypted(config),
            adapted=paths.ADAPTED,
            out=paths.FINETUNED,
            result=paths.result("finetune"),
            log=log,
            adversarial=config.adversarial,
        )


if __name__ == "__main__":
    with one_line_errors():
        main()
