from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
from django.utils.html import format_html_join

from .models import Document


def documents(request):
    links = format_html_join("", '<li><a href="{}">{}</a>', ((each.file.url, each.title) for each in Document.objects.all()))
    return HttpResponse(f'<!doctype html><link rel="stylesheet" href="/static/library/style.css"><title>Library</title><h1>Documents</h1><ul>{links}</ul>')


def alive(request):
    return HttpResponse("alive")


urlpatterns = [path("", documents), path("alive", alive), path("admin/", admin.site.urls)]
