"""Networks that foresee integers for the context coder (SPEC section 15.11): made and measured."""
