"""What are our feature flags really doing?"""
