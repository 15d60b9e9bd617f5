//! The simulator against what is known: closed forms, published figures, and itself.

