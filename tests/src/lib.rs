//! Helpers of the tests that need several processes.
