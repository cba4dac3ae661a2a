"""The batch stream: what each training sample holds."""
