"""What every pretraining run starts from: a published architecture and the released code's optimizer settings."""

from ml_collections import ConfigDict

from configs import meshes, sizes


def get_config(size: str = "v3_base") -> ConfigDict:
    """The config of a named size, with every key there is."""
    c = ConfigDict()
    c.seed = 0
    c.objective = "mlm"
    c.steps = 1_000_000
    c.batch_size = 256  # rows over all devices, hosts and micro-batches
    c.micro_batches = 1  # gradient accumulation
    c.log_every = 10
    c.max_bad_steps = 10  # non-finite steps skipped before the run ends (exit 4)
    c.watchdog_minutes = 30.0  # without the end of a step, or a first one: print all stacks, exit 5; 0 = never
    c.init_from = ""  # a workdir whose parameters start this run
    c.profile_steps = ()  # (first, end)
    c.mesh = (("data", -1), ("fsdp", 1), ("tensor", 1))  # within a slice, slowest first; -1 = the rest of the devices
    c.dcn_mesh = (("data", -1), ("fsdp", 1), ("tensor", 1))  # across TPU slices; an axis has the product of both
    c.rules = meshes.dp

    c.model = ConfigDict(
        dict(
            **sizes.architecture(size),
            vocab_size=0,  # 0 = the tokenizer's
            hidden_dropout=0.1,
            attention_dropout=0.1,
            stochastic_depth=0.0,
            initializer_range=0.02,
            dtype="bfloat16",
            remat="none",
            scan_layers=True,
            attention="auto",
            dropout_bits="hash",
        )
    )
    c.data = ConfigDict(
        dict(
            paths=(),  # prepared directories
            weights=(),  # share of each; () = rows ** sampling_exponent
            sampling_exponent=1.0,
            isolate_documents=True,
            mask=dict(rate=0.15, mask_share=0.8, random_share=0.1, unit="word", max_ngram=3),
            read_threads=4,
        )
    )
    c.optimizer = ConfigDict(
        dict(
            learning_rate=1e-4,
            warmup_steps=10_000,
            schedule="linear",
            end_fraction=0.0,
            b1=0.9,
            b2=0.999,
            eps=1e-6,
            weight_decay=0.01,
            no_decay=(r"bias$", r"norm/scale$"),
            clip_norm=1.0,
        )
    )
    c.eval = ConfigDict(dict(every=5_000, paths=(), batch_size=256, max_rows=0, seed=0, samples=8))
    c.checkpoint = ConfigDict(dict(every_steps=5_000, every_minutes=15.0, keep_last=3, keep_every=100_000))
    c.rtd = None  # of the objective "rtd": configs/rtd.py
    c.sift = None  # scale-invariant fine-tuning: configs/finetune.py
    return c
