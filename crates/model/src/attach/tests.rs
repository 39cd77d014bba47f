//! Attachment by small worlds: one rule of Gateway API each.
