import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for collectstatic, in the build of the image")
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "library.urls"
WSGI_APPLICATION = "library.wsgi.application"
# The volume: what collectstatic makes is seeded, uploads and the database belong to the users.
SITE = "/srv/site"
STATIC_ROOT, STATIC_URL = os.environ.get("STATIC_ROOT", f"{SITE}/static"), "/static/"
MEDIA_ROOT, MEDIA_URL = f"{SITE}/media", "/media/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{SITE}/data/db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "library",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [f"django.{each}" for each in ("template.context_processors.request", "contrib.auth.context_processors.auth", "contrib.messages.context_processors.messages")]},
    }
]
