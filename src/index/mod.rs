//! The ordered index of opened names.
