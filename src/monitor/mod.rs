//! Watching the machine and writing TensorBoard logs.
