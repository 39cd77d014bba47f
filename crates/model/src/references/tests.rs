//! References by small worlds: what leads somewhere, and the reason when it does not.
