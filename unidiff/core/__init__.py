"""The diffusion core: kernels, schedules, denoisers, chains and samplers. It knows no view and no world."""
