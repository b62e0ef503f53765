"""The numerical work: functions of tensors, deterministic for a number of threads."""
