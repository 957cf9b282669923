//! Bodies as blocking readers and writers.
