"""How XLA compiles for the tests. Most of their time goes into compiling small programs that run once."""

FAST_TO_COMPILE = " ".join(  # less than half the time that the defaults take
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
