//! Differentiable operations with a backward of their own, so that frozen weights never get a
//! gradient and fused steps never detach. Each is checked by finite differences.
