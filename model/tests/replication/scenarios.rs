//! One scenario per rule.
